//! Our tmux server: panes are made, reused, listed, ended; it shows nothing of our environment.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use orchwrap::paths::StateDir;
use orchwrap::tmux::client::{Tmux, TmuxError};

fn sh(script: &str) -> Vec<OsString> {
    ["/bin/sh", "-c", script].map(OsString::from).to_vec()
}

struct Server {
    tmux: Tmux,
    dir: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { tmux: Tmux::new(&StateDir::new(dir.path()), false, &Default::default()), dir }
    }

    async fn wait_dead(&self, session: i64) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.tmux.pane(session).await.unwrap().is_some_and(|p| p.dead) {
            assert!(Instant::now() < end, "the pane of {session} did not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::process::Command::new("tmux").args(["-L", self.tmux.server(), "kill-server"]).output();
    }
}

#[tokio::test]
async fn a_pane_is_made_reused_and_ended() {
    let server = Server::new();
    assert!(server.tmux.panes().await.unwrap().is_empty(), "no server yet");
    let out = server.dir.path().join("out");
    let first = server.tmux.put(7, &sh(&format!("echo one >>{}", out.display()))).await.unwrap();
    server.wait_dead(7).await;
    let second = server.tmux.put(7, &sh(&format!("echo two >>{}", out.display()))).await.unwrap();
    assert_eq!(first.pane, second.pane, "the next run takes the same pane");
    server.wait_dead(7).await;
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "one\ntwo\n");
    server.tmux.end(7).await.unwrap();
    server.tmux.end(7).await.expect("ending what is gone is success");
    assert!(server.tmux.panes().await.unwrap().is_empty());
}

#[tokio::test]
async fn t11_words_of_a_program_reach_it_verbatim() {
    let server = Server::new();
    let out = server.dir.path().join("out");
    let odd = "#{pane_id} $(id) ; `x` 'q' #S";
    let program: Vec<OsString> =
        ["/bin/sh", "-c", "printf %s \"$1\" >\"$2\"", "sh", odd, out.to_str().unwrap()].map(OsString::from).to_vec();
    server.tmux.put(1, &program).await.unwrap();
    server.wait_dead(1).await;
    assert_eq!(std::fs::read_to_string(&out).unwrap(), odd);
}

#[tokio::test]
async fn t20_panes_inherit_none_of_our_variables() {
    let server = Server::new();
    let out = server.dir.path().join("env");
    server.tmux.put(1, &sh(&format!("env >{}", out.display()))).await.unwrap();
    server.wait_dead(1).await;
    let env = std::fs::read_to_string(&out).unwrap();
    assert!(env.contains("TERM=tmux-256color"), "{env}");
    assert!(!env.contains("CARGO"), "the test runner's variables reached the pane: {env}");
}

#[tokio::test]
async fn f14_a_frozen_server_is_a_timeout_and_recovers() {
    let server = Server::new();
    server.tmux.put(1, &sh("exec cat")).await.unwrap();
    let pid = std::process::Command::new("tmux")
        .args(["-L", server.tmux.server(), "display-message", "-p", "#{pid}"])
        .output()
        .unwrap();
    let pid: i32 = String::from_utf8(pid.stdout).unwrap().trim().parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let frozen = server.tmux.panes().await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert!(matches!(frozen, Err(TmuxError::Timeout(_))), "{frozen:?}");
    assert_eq!(server.tmux.panes().await.unwrap().len(), 1);
}
