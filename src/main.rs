//! The `orchwrap` program.

fn main() -> std::process::ExitCode {
    orchwrap::cli::main()
}
