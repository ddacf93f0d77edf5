//! `orchwrap completions` and `orchwrap man`: made from the command line's own definition, so that they cannot lie.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Exit};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Print the manual page, or write a page for each verb into a folder
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// The folder
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &Completions) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "orchwrap", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Ok)
}

pub(super) fn man(args: &Man) -> anyhow::Result<Exit> {
    match &args.dir {
        None => clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?,
        Some(dir) => {
            fs_err::create_dir_all(dir)?;
            clap_mangen::generate_to(Cli::command(), dir)
                .with_context(|| format!("write pages to {}", dir.display()))?;
        }
    }
    Ok(Exit::Ok)
}
