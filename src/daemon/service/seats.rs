//! Pools and named sessions, as people ask for them.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use super::{bad, refuse};
use crate::assign::env::{self, Env, Origin};
use crate::ctl::{Refusal, SendOutcome, SendRequest};
use crate::daemon::Daemon;
use crate::daemon::rpc::{SeatRequest, Terminal};
use crate::daemon::seats::SeatError;
use crate::extract::pattern::Pack;
use crate::ids::Name;
use crate::queue::store::{Pool, PoolSpec, Session, SessionSpec};
use crate::run::Seat;

/// How long a prompt typed by `session send` may take to be taken.
const SEND_PATIENCE_MS: u64 = 30_000;

/// A pool and its sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    /// The pool.
    #[serde(flatten)]
    pub pool: Pool,
    /// Its sessions.
    pub sessions: Vec<Session>,
}

/// A session, and where its terminal is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// The session.
    #[serde(flatten)]
    pub session: Session,
    /// Our tmux server, for sessions that sit in a pane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tmux_server: Option<String>,
}

impl From<SeatError> for Refusal {
    fn from(e: SeatError) -> Self {
        match e {
            SeatError::Store(e) => e.into(),
            SeatError::Tmux(e) => refuse("tmux", e),
            SeatError::Launch(e) => refuse("launch", e),
            SeatError::Stop { .. } => refuse("run_unreachable", e),
            SeatError::Env { .. } => refuse("env", e),
            SeatError::OtherKind { .. } | SeatError::Taken { .. } => refuse("other_kind", e),
            SeatError::LongName => bad(e),
            SeatError::TooMany => bad(e),
        }
    }
}

impl Daemon {
    /// Brings a pool to its size.
    pub async fn pool_up(&self, asked: SeatRequest) -> Result<PoolView, Refusal> {
        let size = asked.size.unwrap_or(2);
        if size == 0 {
            return Err(bad("a pool needs at least one session; `pool down` ends one"));
        }
        let (spec, base) = self.seat_spec(asked)?;
        let name = spec.name.clone();
        let pool = PoolSpec {
            name: spec.name,
            agent: spec.agent,
            pack: spec.pack,
            argv: spec.argv,
            cwd: spec.cwd,
            seat: spec.seat,
            hooks: spec.hooks,
            status_reply: spec.status_reply,
        };
        self.seats.pool_up(pool, size, base).await?;
        self.pool_view(&name).await
    }

    /// Changes the size of a pool.
    pub async fn pool_scale(&self, name: &Name, size: u32) -> Result<PoolView, Refusal> {
        if size == 0 {
            return Err(bad("a pool needs at least one session; `pool down` ends one"));
        }
        self.seats.pool_scale(name, size).await?;
        self.pool_view(name).await
    }

    /// Starts the sessions of a pool anew; those that work on a task go on.
    pub async fn pool_restart(&self, name: &Name) -> Result<PoolView, Refusal> {
        self.seats.pool_restart(name).await?;
        self.pool_view(name).await
    }

    /// Every pool and its sessions.
    pub async fn pools(&self) -> Result<Vec<PoolView>, Refusal> {
        let mut views = Vec::new();
        for pool in self.store.pools().await? {
            let sessions = self.seats.members(&pool.spec.name).await?;
            views.push(PoolView { pool, sessions });
        }
        Ok(views)
    }

    async fn pool_view(&self, name: &Name) -> Result<PoolView, Refusal> {
        Ok(PoolView { pool: self.store.pool(name).await?, sessions: self.seats.members(name).await? })
    }

    /// Makes and starts a named seat.
    pub async fn session_start(&self, asked: SeatRequest) -> Result<SessionView, Refusal> {
        let takes_tasks = asked.takes_tasks;
        let (mut spec, base) = self.seat_spec(asked)?;
        if let Ok(known) = self.store.session(&spec.name).await
            && let Some(pool) = known.spec.pool
        {
            return Err(refuse("other_kind", format!("session {} belongs to pool {pool}: use `pool up`", spec.name)));
        }
        spec.takes_tasks = takes_tasks;
        let session = self.seats.session_start(spec, base).await?;
        Ok(self.view(session))
    }

    /// One session.
    pub async fn session_view(&self, name: &Name) -> Result<SessionView, Refusal> {
        Ok(self.view(self.store.session(name).await?))
    }

    fn view(&self, session: Session) -> SessionView {
        let tmux_server = (session.spec.seat == Seat::Pane).then(|| self.seats.tmux().server().to_owned());
        SessionView { session, tmux_server }
    }

    /// Types a prompt into a session for a person, outside the queue.
    pub async fn session_send(&self, name: &Name, text: &str) -> Result<SendOutcome, Refusal> {
        let session = self.store.session(name).await?;
        let held = self.store.live_attempts().await?.into_iter().find(|(a, _)| a.session == *name);
        if let Some((_, task)) = held {
            return Err(refuse("not_now", format!("session {name} works on task {}: wait for it", task.id)));
        }
        let Some(run) = self.seats.run_of(&session) else {
            return Err(refuse("not_now", format!("session {name} has no process: `orchwrap session start {name}`")));
        };
        let (text, _) = crate::assign::deliver::clean(text);
        Ok(run.send(SendRequest { key: None, text, accept_timeout_ms: SEND_PATIENCE_MS }).await?)
    }

    fn seat_spec(&self, asked: SeatRequest) -> Result<(SessionSpec, Env), Refusal> {
        let packs = self.packs();
        let agent = match &asked.agent {
            Some(agent) => agent.clone(),
            None if packs.get(asked.name.as_str()).is_some() => asked.name.to_string(),
            None => return Err(bad("which agent? say --agent NAME")),
        };
        let Some(pack) = packs.get(&agent) else {
            let near = packs.nearest(&agent).join(", ");
            return Err(refuse(
                "unknown_agent",
                format!(
                    "no pack is named {agent:?}; the nearest: {near}. A pack of your own goes into {}",
                    self.dirs.config.join("patterns").display()
                ),
            ));
        };
        if !asked.cwd.is_dir() {
            return Err(refuse("cwd_missing", format!("{} is no folder", asked.cwd.display())));
        }
        env::check(&asked.added, Origin::Local).map_err(bad)?;
        let theirs = asked.env.into_iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
        let mut base = env::base(theirs, &pack.launch.unset);
        base.extend(asked.added.into_iter().map(|(k, v)| (k.into(), v.into())));
        env::check_fits(&base).map_err(bad)?;
        let argv = self.command(pack, &asked.args);
        let spec = SessionSpec {
            name: asked.name,
            pool: None,
            pack: pack.id.clone(),
            agent,
            argv,
            cwd: asked.cwd,
            seat: match asked.terminal {
                Terminal::Tmux => Seat::Pane,
                Terminal::Detached => Seat::Detached,
                Terminal::Oneshot => oneshot(pack)?,
            },
            takes_tasks: true,
            hooks: asked.hooks,
            status_reply: asked.status_reply,
        };
        find_program(&spec, &base)?;
        Ok((spec, base))
    }

    /// The command of an agent: the person's, as configured, or its pack's; then `args`.
    fn command(&self, pack: &Pack, args: &[String]) -> Vec<String> {
        let configured = self.config().agents.get(&pack.id).map(|a| a.command.clone()).unwrap_or_default();
        let mut argv = if configured.is_empty() { vec![pack.launch.command.clone()] } else { configured };
        argv.extend_from_slice(args);
        argv
    }
}

fn oneshot(pack: &Pack) -> Result<Seat, Refusal> {
    match pack.oneshot {
        Some(_) => Ok(Seat::Oneshot),
        None => Err(bad(format!("agent {} has no way to work without a terminal", pack.id))),
    }
}

/// Refuses what could only fail at each start (F62).
fn find_program(spec: &SessionSpec, env: &Env) -> Result<(), Refusal> {
    let env: Vec<_> = env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let program = &spec.argv[0];
    match crate::pty::launch::find_program(program.as_ref(), &spec.cwd, &env) {
        Some(_) => Ok(()),
        None => Err(refuse(
            "binary_missing",
            format!(
                "{program} is not on your PATH: install it, or say where it is in config.toml: [agents.{}] command",
                spec.pack
            ),
        )),
    }
}
