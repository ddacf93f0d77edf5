use super::*;
use crate::config;

/// A keeper over an empty store, with one detached session `s` that nothing starts.
async fn keeper() -> (tempfile::TempDir, Seats, Session) {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::new(root.path().join("state"));
    crate::pty::rundir::private_dir(state.root()).unwrap();
    let store = Store::open(&state.db()).unwrap();
    let runs = Runs::new(state.clone(), store.clone(), "/bin/false".into());
    let tmux = Tmux::new(&state, false, &config::Tmux::default());
    let seats = Seats::new(state, store, runs, tmux);
    let spec = SessionSpec {
        name: "s".parse().unwrap(),
        pool: None,
        agent: "generic".into(),
        pack: "generic".into(),
        argv: vec!["cat".into()],
        cwd: root.path().into(),
        seat: Seat::Detached,
        takes_tasks: true,
        hooks: false,
        status_reply: false,
    };
    let session = seats.inner.store.upsert_session(spec).await.unwrap();
    seats.write_env(&session, &Env::new()).unwrap();
    (root, seats, session)
}

fn run_of(session: &Session) -> RunSpec {
    RunSpec {
        v: SPEC_VERSION,
        run: RunId::random(),
        session: session.spec.name.clone(),
        pool: None,
        agent: "generic".into(),
        pack: "generic".into(),
        argv: vec!["cat".into()],
        cwd: session.spec.cwd.clone(),
        seat: Seat::Detached,
        size: None,
        created: clock::wall(),
        record: false,
        hooks: false,
        status_reply: false,
        takes_tasks: true,
        attempt: None,
        resume: None,
    }
}

#[tokio::test]
async fn f72_the_end_of_an_old_run_leaves_the_one_that_came_after_it_in_its_seat() {
    let (_root, seats, session) = keeper().await;
    let store = &seats.inner.store;
    let (old, new) = (run_of(&session), RunId::random());
    store.add_run(old.clone()).await.unwrap();
    let sit = |run: RunId| store.update_session(&session.spec.name, move |s| s.run = Some(run));
    let looked_at = sit(old.run.clone()).await.unwrap();
    store.end_run(old.run.clone(), "exit", Some(1), None).await.unwrap();
    let row = store.run(old.run.clone()).await.unwrap().unwrap();
    // A driver starts the next run while the keeper still holds what it looked at.
    sit(new.clone()).await.unwrap();
    let after = seats.settle(&looked_at, &row).await.unwrap();
    assert_eq!((after.run, after.failures), (Some(new.clone()), 0));
    // Nor does a start of the keeper's that failed at that moment empty the seat.
    let after = store.update_session(&session.spec.name, |s| failed_start(s, "why")).await.unwrap();
    assert_eq!((after.run, after.failures), (Some(new), 0));
    // Its own run's end is booked.
    let sat = sit(old.run).await.unwrap();
    let after = seats.settle(&sat, &row).await.unwrap();
    assert_eq!((after.run, after.failures), (None, 1));
}

#[tokio::test]
async fn f70_a_start_that_nobody_waits_for_any_more_comes_to_its_end() {
    let (_root, seats, session) = keeper().await;
    let name = &session.spec.name;
    // Dropped right after it has begun: the first poll takes the seat.
    let mut start = Box::pin(seats.run_for(name, Launch::default()));
    assert!(futures_poll(start.as_mut()).await.is_none());
    drop(start);
    seats.at_rest(name).await;
    let runs = seats.inner.store.runs_of(name.clone(), 8).await.unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].end_reason.as_deref(), Some("start_failed"), "/bin/false is no wrapper");
    assert_eq!(seats.inner.store.session(name).await.unwrap().run, None);
}

/// Polls once.
async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
