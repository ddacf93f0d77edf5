use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;

use super::*;
use crate::assign::score::Score;
use crate::extract::event::{Body, SessionState, Source};
use crate::queue::schedule::{self, Assignment};
use crate::queue::task::{Proof, Task, TaskSpec};
use crate::queue::transition::Verb;
use TaskState::{Cancelled, Claimed as ClaimedState, Completed, Held, Preparing, Queued, RetryWait, Running};

struct Bench {
    _dir: tempfile::TempDir,
    path: PathBuf,
    store: Store,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orchwrap.db");
    let store = Store::open(&path).unwrap();
    Bench { _dir: dir, path, store }
}

fn spec(prompt: &str) -> TaskSpec {
    serde_json::from_value(json!({ "prompt": prompt, "cwd": "/src/app" })).unwrap()
}

fn name(s: &str) -> Name {
    s.parse().unwrap()
}

impl Bench {
    async fn add(&self, spec: TaskSpec) -> TaskId {
        self.store.add_task(spec).await.unwrap().id
    }

    async fn claim(&self, task: TaskId, session: &str) -> Option<Claimed> {
        let claim = Assignment { task, session: name(session), score: Score::default() };
        self.store.claim(vec![claim]).await.unwrap().pop()
    }

    async fn task(&self, id: TaskId) -> Task {
        self.store.task(id).await.unwrap()
    }
}

/// From claimed to completed, as a driver does it.
async fn complete(store: &Store, key: AttemptKey) {
    let path = [ClaimedState, Preparing, TaskState::Ready, TaskState::Sending, Running, TaskState::Verifying];
    for pair in path.windows(2) {
        assert!(store.transition(key, &pair[..1], pair[1], Change::default()).await.unwrap(), "{pair:?}");
    }
    let change = Change { proof: Some(Proof::Gate), answer: Some("42".into()), ..Change::default() };
    assert!(store.transition(key, &[TaskState::Verifying], Completed, change).await.unwrap());
}

#[tokio::test]
async fn a_task_goes_from_the_queue_to_its_proof_and_every_step_is_an_event() {
    let b = bench();
    let id = b.add(spec("x")).await;
    let claimed = b.claim(id, "s1").await.unwrap();
    assert_eq!((claimed.key.attempt, claimed.key.fence), (1, 1));
    complete(&b.store, claimed.key).await;
    let task = b.task(id).await;
    assert_eq!((task.state, task.proof, task.answer.as_deref()), (Completed, Some(Proof::Gate), Some("42")));
    assert!(b.store.live_attempts().await.unwrap().is_empty());
    let attempt = &b.store.attempts(id).await.unwrap()[0];
    assert_eq!((attempt.outcome, attempt.live, attempt.charged), (Some(Completed), false, true));
    let events = b.store.events(EventFilter { task: Some(id), ..EventFilter::default() }, 0, 100).await.unwrap();
    let states: Vec<_> = events
        .iter()
        .map(|e| match &e.body {
            Body::TaskState { state, was, .. } => format!("{was}>{state}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        states.join(" "),
        ">queued queued>claimed claimed>preparing preparing>ready ready>sending sending>running running>verifying \
         verifying>completed"
    );
    assert!(events.iter().skip(1).all(|e| e.session == Some(name("s1")) && e.attempt == Some(claimed.key)));
}

#[tokio::test]
async fn a_session_and_a_task_have_one_live_attempt() {
    let b = bench();
    let (one, two) = (b.add(spec("1")).await, b.add(spec("2")).await);
    assert!(b.claim(one, "s1").await.is_some());
    assert!(b.claim(two, "s1").await.is_none());
    assert!(b.claim(one, "s2").await.is_none());
    assert!(b.claim(two, "s2").await.is_some());
}

#[tokio::test]
async fn a_working_tree_is_held_by_one_attempt() {
    let b = bench();
    let (one, two) = (b.add(spec("1")).await, b.add(spec("2")).await);
    let (a, c) = (b.claim(one, "s1").await.unwrap(), b.claim(two, "s2").await.unwrap());
    let tree = PathBuf::from("/src/app");
    assert_eq!(b.store.take_tree(a.key, tree.clone()).await.unwrap(), Ok(()));
    assert_eq!(b.store.take_tree(a.key, tree.clone()).await.unwrap(), Ok(()));
    assert_eq!(b.store.take_tree(c.key, tree.clone()).await.unwrap(), Err(one));
    b.store.transition(a.key, &[ClaimedState], Queued, Change::default().uncharged()).await.unwrap();
    assert_eq!(b.store.take_tree(c.key, tree).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn f02_an_attempt_that_sent_nothing_goes_back_uncharged_under_a_newer_fence() {
    let b = bench();
    let id = b.add(spec("x")).await;
    let first = b.claim(id, "s1").await.unwrap();
    let back = Change::because("daemon_lost", "x").uncharged();
    assert!(b.store.transition(first.key, &[ClaimedState], Queued, back).await.unwrap());
    assert_eq!(b.task(id).await.attempts, 0);
    let second = b.claim(id, "s1").await.unwrap();
    assert_eq!((second.key.attempt, second.key.fence), (1, 2));
    assert!(!b.store.transition(first.key, &[ClaimedState], Preparing, Change::default()).await.unwrap());
    assert!(b.store.transition(second.key, &[ClaimedState], Preparing, Change::default()).await.unwrap());
}

#[tokio::test]
async fn a_transition_that_the_rules_do_not_know_is_refused() {
    let b = bench();
    let id = b.add(spec("x")).await;
    let key = b.claim(id, "s1").await.unwrap().key;
    let err = b.store.transition(key, &[ClaimedState], Completed, Change::default()).await.unwrap_err();
    assert!(matches!(err, StoreError::Forbidden { from: ClaimedState, to: Completed }), "{err}");
    assert_eq!(b.task(id).await.state, ClaimedState);
}

#[tokio::test]
async fn f70_cancel_takes_the_fence_at_once_and_the_session_is_free_once_the_driver_says_so() {
    let b = bench();
    let (id, other) = (b.add(spec("x")).await, b.add(spec("y")).await);
    let key = b.claim(id, "s1").await.unwrap().key;
    assert_eq!(b.store.say(id, Verb::Cancel, None).await.unwrap().state, Cancelled);
    assert_eq!(b.store.say(id, Verb::Cancel, None).await.unwrap().state, Cancelled);
    assert!(!b.store.transition(key, &[ClaimedState], Preparing, Change::default()).await.unwrap());
    assert!(b.claim(other, "s1").await.is_none());
    let live = b.store.live_attempts().await.unwrap();
    assert!(live.len() == 1 && live[0].1.fence > live[0].0.key.fence);
    // Retried at once: the old attempt still runs, so there is no second one.
    b.store.say(id, Verb::Retry, None).await.unwrap();
    assert!(b.claim(id, "s2").await.is_none());
    b.store.end_attempt(key, Change::default()).await.unwrap();
    b.store.end_attempt(key, Change::default()).await.unwrap();
    assert!(b.claim(id, "s2").await.is_some());
    assert!(b.claim(other, "s1").await.is_some());
}

#[tokio::test]
async fn f70_dependants_of_a_failed_task_are_held_and_come_back_with_it() {
    let b = bench();
    let first = b.add(spec("1")).await;
    let second = b.add(TaskSpec { deps: vec![first], ..spec("2") }).await;
    let third = b.add(TaskSpec { deps: vec![first, second], ..spec("3") }).await;
    assert!(b.claim(second, "s1").await.is_none());
    assert_eq!(b.task(second).await.waiting_for.as_deref(), Some("task 1 (queued)"));
    assert_eq!(b.task(third).await.waiting_for.as_deref(), Some("task 1 (queued) and 1 more"));
    b.store.say(first, Verb::Fail, None).await.unwrap();
    let held = b.task(second).await;
    assert_eq!((held.state, held.reason.as_deref()), (Held, Some("dep_failed")));
    b.store.say(first, Verb::Retry, None).await.unwrap();
    assert_eq!(b.task(second).await.state, Queued);
    let key = b.claim(first, "s1").await.unwrap().key;
    complete(&b.store, key).await;
    assert!(b.claim(second, "s1").await.is_some());
    assert!(b.claim(third, "s2").await.is_none());
    // Released by hand, it goes without what failed.
    b.store.say(second, Verb::Cancel, None).await.unwrap();
    assert_eq!(b.task(third).await.state, Held);
    b.store.say(third, Verb::Release, None).await.unwrap();
    assert!(b.claim(third, "s2").await.is_some());
}

#[tokio::test]
async fn f70_a_cycle_is_refused_and_changes_nothing() {
    let b = bench();
    let first = b.add(spec("1")).await;
    let second = b.add(TaskSpec { deps: vec![first], ..spec("2") }).await;
    let err = b.store.set_deps(first, vec![second]).await.unwrap_err();
    assert!(matches!(err, StoreError::Cycle { .. }), "{err}");
    assert!(matches!(b.store.set_deps(first, vec![first]).await, Err(StoreError::Cycle { .. })));
    assert!(b.claim(first, "s1").await.is_some());
}

#[tokio::test]
async fn a_batch_is_added_whole_or_not_at_all() {
    let b = bench();
    let bad = TaskSpec { deps: vec![TaskId(99)], ..spec("2") };
    assert!(matches!(b.store.add_tasks(vec![spec("1"), bad]).await, Err(StoreError::NoTask(TaskId(99)))));
    assert!(b.store.tasks(TaskFilter::default()).await.unwrap().is_empty());
    assert_eq!(b.store.add_tasks(vec![spec("1"), spec("2")]).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_same_idempotency_key_is_the_same_task() {
    let b = bench();
    let keyed = TaskSpec { idempotency_key: Some("k".into()), ..spec("1") };
    let first = b.store.add_task(keyed.clone()).await.unwrap();
    let again = b.store.add_task(keyed).await.unwrap();
    assert_eq!((again.id, again.created), (first.id, false));
}

#[tokio::test]
async fn a_failing_request_undoes_only_itself_also_among_others() {
    let b = bench();
    let calls = (0..200).map(|n| {
        let store = b.store.clone();
        tokio::spawn(async move {
            store
                .write(move |tx| {
                    let added = tx.add_task(&spec(&n.to_string()))?;
                    match n % 3 {
                        0 => Ok(added),
                        1 => Err(StoreError::NoTask(added.id)),
                        _ => panic!("a bug"),
                    }
                })
                .await
        })
    });
    let mut kept = 0;
    for call in calls.collect::<Vec<_>>() {
        kept += usize::from(call.await.unwrap().is_ok());
    }
    assert_eq!(kept, 67);
    assert_eq!(b.store.tasks(TaskFilter::default()).await.unwrap().len(), 67);
}

static CLOCK: AtomicI64 = AtomicI64::new(1_800_000_000_000_000);

#[tokio::test]
async fn what_is_due_wakes_and_nothing_before() {
    let dir = tempfile::tempdir().unwrap();
    let clock = || Timestamp::from_microsecond(CLOCK.load(Ordering::SeqCst)).unwrap();
    let store = Store::open_with(&dir.path().join("db"), Options { clock, ..Options::default() }).unwrap();
    let soon = clock() + std::time::Duration::from_secs(60);
    let id = store.add_task(TaskSpec { not_before: Some(soon), ..spec("x") }).await.unwrap().id;
    assert_eq!(store.next_due().await.unwrap(), Some(soon));
    let claim = || vec![Assignment { task: id, session: name("s"), score: Score::default() }];
    assert_eq!(store.wake().await.unwrap(), 0);
    assert!(store.claim(claim()).await.unwrap().is_empty());
    CLOCK.fetch_add(60_000_000, Ordering::SeqCst);
    assert_eq!(store.wake().await.unwrap(), 1);
    let key = store.claim(claim()).await.unwrap()[0].key;
    let later = clock() + std::time::Duration::from_secs(5);
    let change = Change::because("gate_failed", "cargo test").due(later);
    store.transition(key, &[ClaimedState], RetryWait, change).await.unwrap();
    assert!(store.task(id).await.unwrap().waiting_for.unwrap().starts_with("its next try, "));
    store.park("p", later, "limit").await.unwrap();
    CLOCK.fetch_add(5_000_000, Ordering::SeqCst);
    assert_eq!(store.wake().await.unwrap(), 1);
    assert!(store.parked().await.unwrap().is_empty());
    let task = store.task(id).await.unwrap();
    assert_eq!((task.state, task.attempts), (Queued, 1));
    assert_eq!(store.claim(claim()).await.unwrap()[0].key.attempt, 2);
}

#[tokio::test]
async fn a_held_task_keeps_its_time() {
    let b = bench();
    let tomorrow = clock::wall() + std::time::Duration::from_secs(86_400);
    let id = b.add(TaskSpec { hold: true, not_before: Some(tomorrow), ..spec("x") }).await;
    assert_eq!(b.task(id).await.state, Held);
    assert_eq!(b.store.next_due().await.unwrap(), None);
    for verb in [Verb::Release, Verb::Hold, Verb::Release] {
        b.store.say(id, verb, None).await.unwrap();
    }
    let due = b.task(id).await.due.unwrap();
    assert_eq!(due.as_microsecond(), tomorrow.as_microsecond());
    assert!(b.claim(id, "s").await.is_none());
}

fn run_spec(session: &str) -> crate::run::RunSpec {
    serde_json::from_value(json!({
        "v": 1, "run": RunId::random(), "session": session, "agent": "x", "pack": "x", "argv": ["x"], "cwd": "/",
        "seat": "detached", "created": Timestamp::UNIX_EPOCH, "record": false, "hooks": true, "status_reply": true,
        "takes_tasks": true
    }))
    .unwrap()
}

fn event(seq: u64, body: Body) -> Event {
    Event {
        id: None,
        seq: Some(seq),
        ts: Timestamp::UNIX_EPOCH,
        t: Some(0.0),
        host: "h".into(),
        session: Some(name("s1")),
        run: None,
        attempt: None,
        body,
        source: Source::Osc,
        rule: "r".into(),
        span: None,
    }
}

fn session_spec(session: &str) -> SessionSpec {
    serde_json::from_value(json!({
        "name": session, "agent": "x", "pack": "x", "argv": ["x"], "cwd": "/src", "seat": "pane", "takes_tasks": true
    }))
    .unwrap()
}

#[tokio::test]
async fn f07_each_line_of_a_journal_is_taken_once_and_the_session_follows_its_run() {
    let b = bench();
    let run = run_spec("s1");
    let id = run.run.clone();
    assert!(matches!(b.store.ingest(id.clone(), vec![]).await, Err(StoreError::NoRun(_))));
    b.store.add_run(run).await.unwrap();
    b.store.upsert_session(session_spec("s1")).await.unwrap();
    let current = id.clone();
    b.store.update_session(&name("s1"), move |s| s.run = Some(current)).await.unwrap();
    let working = Body::State { state: SessionState::Working, was: SessionState::Idle };
    let lines = vec![event(1, working), event(2, Body::TurnStarted {})];
    assert_eq!(b.store.ingest(id.clone(), lines.clone()).await.unwrap(), 2);
    assert_eq!(b.store.ingest(id.clone(), lines).await.unwrap(), 0);
    assert_eq!(b.store.cursor(id.clone()).await.unwrap(), 2);
    let session = b.store.session(&name("s1")).await.unwrap();
    assert_eq!((session.state, session.last_active), (SessionState::Working, Some(Timestamp::UNIX_EPOCH)));
    assert!(b.store.end_run(id.clone(), "wrapper_lost", None, None).await.unwrap());
    assert!(!b.store.end_run(id.clone(), "wrapper_lost", None, None).await.unwrap());
    let row = b.store.run(id.clone()).await.unwrap().unwrap();
    assert_eq!(row.end_reason.as_deref(), Some("wrapper_lost"));
    let kinds =
        |kinds: &[&str]| EventFilter { kinds: kinds.iter().map(|k| k.to_string()).collect(), ..Default::default() };
    assert_eq!(b.store.events(kinds(&["turn.*"]), 0, 9).await.unwrap().len(), 1);
    assert_eq!(b.store.events(kinds(&["turn.*", "run.exited"]), 0, 9).await.unwrap().len(), 2);
    assert_eq!(
        b.store.last_events(EventFilter { run: Some(id), ..Default::default() }, 1).await.unwrap()[0].id,
        Some(3)
    );
}

#[tokio::test]
async fn f71_one_answer_wins_and_only_for_what_was_shown() {
    let b = bench();
    let run = RunId::random();
    let ask =
        crate::extract::event::Ask { hash: "h1".into(), tool: None, text: "rm?".into(), options: vec![], exact: true };
    let kind = crate::extract::event::AskKind::Permission;
    let first = b.store.ask(&run, None, kind, ask.clone()).await.unwrap();
    assert_eq!(b.store.ask(&run, None, kind, ask.clone()).await.unwrap(), first);
    assert!(!b.store.decide(&run, "h0", "yes").await.unwrap());
    assert!(b.store.decide(&run, "h1", "yes").await.unwrap());
    assert!(!b.store.decide(&run, "h1", "no").await.unwrap());
    b.store.ask(&run, None, kind, crate::extract::event::Ask { hash: "h2".into(), ..ask }).await.unwrap();
    assert!(!b.store.decide(&run, "h1", "no").await.unwrap());
    assert_eq!(b.store.open_asks(None).await.unwrap().len(), 1);
    // Decided by a daemon that died before it delivered the answer: the next one may take another.
    assert!(b.store.decide(&run, "h2", "yes").await.unwrap());
    b.store.write(|tx| tx.undecide_all()).await.unwrap();
    assert!(b.store.decide(&run, "h2", "no").await.unwrap());
}

#[tokio::test]
async fn committed_events_are_published_in_the_order_of_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    let committed = Box::new(move |events: Vec<Arc<Event>>| events.into_iter().for_each(|e| tx.send(e).unwrap()));
    let store = Store::open_with(&dir.path().join("db"), Options { committed, ..Options::default() }).unwrap();
    let adds: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.add_task(spec(&n.to_string())).await.unwrap() })
        })
        .collect();
    for add in adds {
        add.await.unwrap();
    }
    let ids: Vec<_> = rx.try_iter().map(|e| e.id.unwrap()).collect();
    assert_eq!(ids, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_busy_place_does_not_hide_the_others() {
    let b = bench();
    let mut specs: Vec<_> = (0..300).map(|n| spec(&n.to_string())).collect();
    specs.push(TaskSpec { cwd: "/src/other".into(), ..spec("other") });
    specs.push(TaskSpec { priority: 1, ..spec("first") });
    b.store.add_tasks(specs).await.unwrap();
    let lanes = schedule::Lane::served(&name("s1"), None, "x");
    let window = b.store.window(lanes, 10).await.unwrap();
    let prompts: Vec<_> = window.iter().map(|t| t.spec.prompt.as_str()).collect();
    assert_eq!(prompts, ["first", "0", "1", "2", "3", "4", "5", "6", "7", "8", "other"]);
}

#[tokio::test]
async fn old_ended_tasks_and_events_are_pruned_and_nothing_else() {
    let b = bench();
    let old = b.add(spec("old")).await;
    let open = b.add(spec("open")).await;
    let needed = b.add(spec("needed")).await;
    let held = b.add(TaskSpec { deps: vec![needed], ..spec("held") }).await;
    let key = b.claim(old, "s1").await.unwrap().key;
    complete(&b.store, key).await;
    b.store.say(needed, Verb::Fail, None).await.unwrap();
    let run = run_spec("s1");
    let id = run.run.clone();
    b.store.add_run(run).await.unwrap();
    b.store.end_run(id.clone(), "exit", Some(0), None).await.unwrap();
    assert_eq!(b.store.prune(Timestamp::UNIX_EPOCH).await.unwrap(), Pruned::default());
    let pruned = b.store.prune(clock::wall() + std::time::Duration::from_secs(60)).await.unwrap();
    assert_eq!((pruned.tasks, pruned.runs), (1, 1));
    assert!(matches!(b.store.task(old).await, Err(StoreError::NoTask(_))));
    assert_eq!(b.task(held).await.state, Held);
    assert!(matches!(b.store.forget_task(open).await, Err(StoreError::NotNow { .. })));
    b.store.say(open, Verb::Cancel, None).await.unwrap();
    b.store.forget_task(open).await.unwrap();
    assert!(b.store.events(EventFilter { task: Some(open), ..Default::default() }, 0, 9).await.unwrap().is_empty());
    assert!(b.add(spec("new")).await > held);
}

#[tokio::test]
async fn f41_on_a_full_disk_nothing_new_begins_and_what_is_under_way_is_recorded() {
    let b = bench();
    let (one, two) = (b.add(spec("1")).await, b.add(spec("2")).await);
    let key = b.claim(one, "s1").await.unwrap().key;
    let reserve = b.path.with_file_name("orchwrap.db.reserve");
    assert!(reserve.is_file());
    let limit = |pages: i64| {
        b.store.write(move |tx| {
            tx.conn().pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).map_err(StoreError::from)
        })
    };
    limit(1).await.unwrap();
    let big = b.store.add_task(spec(&"x".repeat(1 << 20))).await;
    assert!(matches!(big, Err(StoreError::Full)), "{big:?}");
    // No room for a reserve: something stands in its way.
    std::fs::create_dir(&reserve).unwrap();
    limit(1 << 30).await.unwrap();
    let claim = Assignment { task: two, session: name("s2"), score: Score::default() };
    assert!(matches!(b.store.claim(vec![claim]).await, Err(StoreError::Full)));
    assert!(matches!(b.store.add_task(spec("3")).await, Err(StoreError::Full)));
    assert!(b.store.transition(key, &[ClaimedState], TaskState::Failed, Change::default()).await.unwrap());
    std::fs::remove_dir(&reserve).unwrap();
    assert!(b.claim(two, "s2").await.is_some());
    assert!(reserve.is_file());
}

#[tokio::test]
async fn f42_a_locked_database_is_a_retryable_error() {
    let b = bench();
    let quick =
        |tx: &mut Tx<'_>| tx.conn().busy_timeout(std::time::Duration::from_millis(20)).map_err(StoreError::from);
    b.store.write(quick).await.unwrap();
    let other = Connection::open(&b.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let e = b.store.add_task(spec("x")).await.unwrap_err();
    assert!(e.is_retryable(), "{e}");
    other.execute_batch("ROLLBACK").unwrap();
    b.add(spec("x")).await;
}

/// Makes the pages of a database unreadable while nobody has it open.
fn damage(path: &Path) {
    let len = std::fs::metadata(path).unwrap().len();
    std::fs::write(path, vec![0xa5; usize::try_from(len).unwrap()]).unwrap();
}

/// Opens the store, adds tasks, closes it, all of it on the disk.
fn with_tasks(path: &Path, n: usize, backup: bool) {
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(async {
        let store = Store::open_with(path, Options { backup_every: None, ..Options::default() }).unwrap();
        store.add_tasks((0..n).map(|n| spec(&n.to_string())).collect()).await.unwrap();
        if backup {
            store.backup().await.unwrap();
        }
        store.write(|tx| Ok(tx.conn().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").ok())).await.unwrap();
    });
    // The writer thread closes the file by itself: once the log is gone, nobody writes any more.
    let wal = path.with_file_name(format!("{}-wal", path.file_name().unwrap().to_str().unwrap()));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while wal.exists() {
        assert!(std::time::Instant::now() < deadline, "the store stays open");
        std::thread::yield_now();
    }
}

fn count(store: &Store) -> usize {
    let rows = store.read_blocking(|c| Ok(c.query_row("SELECT count(*) FROM tasks", [], |r| r.get::<_, i64>(0))?));
    usize::try_from(rows.unwrap()).unwrap()
}

#[test]
fn f43_a_damaged_database_without_backup_is_refused_again_and_again_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orchwrap.db");
    with_tasks(&path, 3, false);
    damage(&path);
    let bytes = std::fs::read(&path).unwrap();
    for n in 1..=2 {
        let e = Store::open(&path).err().unwrap();
        assert!(matches!(&e, StoreError::Corrupt { .. }), "{e}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(std::fs::read(dir.path().join(format!("orchwrap.db.damaged-{n}"))).unwrap(), bytes);
    }
}

#[test]
fn f43_a_damaged_or_emptied_database_is_restored_from_its_backup_and_says_so() {
    for emptied in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orchwrap.db");
        with_tasks(&path, 3, true);
        with_tasks(&path, 2, false);
        if emptied {
            std::fs::write(&path, b"").unwrap();
        } else {
            damage(&path);
        }
        let store = Store::open(&path).unwrap();
        let damage = store.damage().unwrap();
        assert!(damage.kept.exists() && damage.held == 3, "{damage:?}");
        assert_eq!(count(&store), 3);
        let rt = tokio::runtime::Runtime::new().unwrap();
        rt.block_on(async {
            let task = store.task(TaskId(1)).await.unwrap();
            assert_eq!((task.state, task.reason.as_deref()), (TaskState::Held, Some(RESTORED)));
            assert!(task.fence >= 1000, "no claim since the backup has had it");
            let lanes = store.queued_lanes().await.unwrap();
            assert!(lanes.is_empty(), "nothing goes by itself");
            let added = store.add_task(spec("new")).await.unwrap();
            assert!(added.id > TaskId(1000), "{added:?}: a lost one may have had the next id");
            store.write(|tx| tx.ids_after(7_300)).await.unwrap();
            assert_eq!(store.add_task(spec("newer")).await.unwrap().id, TaskId(8001));
            store.say(TaskId(1), Verb::Release, None).await.unwrap();
            assert_eq!(store.task(TaskId(1)).await.unwrap().state, TaskState::Queued);
        });
    }
}

#[test]
fn f43_a_restore_that_was_killed_half_way_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orchwrap.db");
    with_tasks(&path, 3, true);
    std::fs::rename(&path, dir.path().join("orchwrap.db.damaged-1")).unwrap();
    assert_eq!(count(&Store::open(&path).unwrap()), 3);
}

#[test]
fn a_first_start_that_was_killed_before_its_schema_is_a_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orchwrap.db");
    Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode=wal; VACUUM;").unwrap();
    assert_eq!(count(&Store::open(&path).unwrap()), 0);
}

#[tokio::test]
async fn f44_a_database_that_was_moved_takes_nothing_more() {
    let b = bench();
    b.store.check_in_place().unwrap();
    let moved = b.path.with_extension("moved");
    std::fs::rename(&b.path, &moved).unwrap();
    assert!(matches!(b.store.check_in_place(), Err(StoreError::Gone { .. })));
    assert!(matches!(b.store.add_task(spec("x")).await, Err(StoreError::Gone { .. })));
    std::fs::rename(&moved, &b.path).unwrap();
    b.add(spec("x")).await;
}

#[test]
fn f45_a_place_that_cannot_be_written_is_named() {
    // Not even root creates files there.
    let e = Store::open(Path::new("/proc/orchwrap.db")).err().unwrap();
    assert!(e.to_string().contains("/proc/orchwrap.db"), "{e}");
}

#[tokio::test]
async fn f46_a_commit_that_fails_did_not_happen_for_anybody_in_it() {
    let b = bench();
    let orphan = b
        .store
        .write(|tx| {
            let added = tx.add_task(&spec("x"))?;
            tx.conn().execute_batch(
                "PRAGMA defer_foreign_keys = on; INSERT INTO attempt_steps VALUES (1, 9, 1, 'x', '{}', 0)",
            )?;
            Ok(added)
        })
        .await;
    assert!(orphan.is_err());
    assert_eq!(count(&b.store), 0);
    b.add(spec("y")).await;
}

#[test]
fn f49_a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orchwrap.db");
    with_tasks(&path, 1, false);
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let e = Store::open(&path).err().unwrap();
    assert!(matches!(e, StoreError::Newer { found: 99, .. }), "{e}");
}

#[test]
fn t21_the_files_are_private_whatever_the_mode_was() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orchwrap.db");
    std::fs::write(&path, b"").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = Store::open(&path).unwrap();
    store.write_blocking(|tx| tx.add_task(&spec("x"))).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(store.backup()).unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} {mode:o}", entry.path());
        files += 1;
    }
    assert!(files >= 4, "database, log, index, backup");
}

/// What SQLite says about how it runs a query.
fn query_plan(conn: &Connection, sql: &str) -> String {
    let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let mut rows = explain.raw_query();
    let mut plan = String::new();
    while let Some(row) = rows.next().unwrap() {
        plan += &row.get::<_, String>(3).unwrap();
        plan += "\n";
    }
    plan
}

#[test]
fn f51_the_queries_of_a_claim_read_an_index_and_sort_nothing() {
    let b = bench();
    let plans = b.store.read_blocking(|c| Ok(tasks::window_queries().map(|sql| query_plan(c, &sql)))).unwrap();
    for (plan, index) in plans.iter().zip(["tasks_claimable", "tasks_places"]) {
        let tasks: Vec<_> = plan.lines().filter(|l| l.contains("tasks") || l.contains(" t ")).collect();
        assert!(!tasks.is_empty() && tasks.iter().all(|l| l.starts_with("SEARCH") && l.contains(index)), "{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }
    let live = b.store.read_blocking(|c| Ok(query_plan(c, "SELECT task FROM attempts WHERE live = 1 ORDER BY task")));
    assert!(live.unwrap().contains("attempts_live_task"));
    let due = b.store.read_blocking(|c| Ok(query_plan(c, tasks::DUE))).unwrap();
    assert!(due.contains("tasks_due") && !due.contains("TEMP"), "{due}");
    let count = b.store.read_blocking(|c| Ok(query_plan(c, "SELECT state, count(*) FROM tasks GROUP BY state")));
    assert!(count.unwrap().contains("COVERING INDEX tasks_state"));
}

#[test]
fn the_first_backup_is_made_at_the_start() {
    let b = bench();
    let backup = b.path.with_file_name("orchwrap.db.bak");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !backup.exists() {
        assert!(std::time::Instant::now() < deadline, "no backup");
        std::thread::yield_now();
    }
}

const KILLED: &str = "ORCHWRAP_TEST_STORE";

/// Not a test: the process that the next one kills. Tells what was promised, one line each.
#[test]
#[ignore = "run by f01_f47_every_promise_survives_kill_9"]
fn promises_until_it_is_killed() {
    let Some(path) = std::env::var_os(KILLED) else { return };
    let store = Store::open(Path::new(&path)).unwrap();
    loop {
        let id = store.write_blocking(|tx| tx.add_task(&spec("x"))).unwrap().id;
        println!("added {id}");
        let claim = Assignment { task: id, session: name("s"), score: Score::default() };
        let key = store.write_blocking(move |tx| tx.claim(&claim)).unwrap().unwrap().key;
        println!("claimed {id}");
        let end = move |tx: &mut Tx<'_>| tx.transition(key, &[ClaimedState], TaskState::Failed, &Change::default());
        assert!(store.write_blocking(end).unwrap());
        println!("ended {id}");
    }
}

#[test]
fn f01_f47_every_promise_survives_kill_9() {
    use std::io::BufRead;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orchwrap.db");
    let mut promised = std::collections::BTreeMap::new();
    for round in 1..=5 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "queue::store::tests::promises_until_it_is_killed"])
            .env(KILLED, &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        while heard < round * 7 {
            let line = lines.next().expect("it goes on until it is killed").unwrap();
            heard += usize::from(note(&line, &mut promised));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts as well; a torn line is no promise.
        for line in lines.map_while(Result::ok) {
            note(&line, &mut promised);
        }
        let store = Store::open_with(&path, Options { backup_every: None, ..Options::default() }).unwrap();
        assert!(store.damage().is_none());
        let rt = tokio::runtime::Runtime::new().unwrap();
        for (id, state) in &promised {
            let task = rt.block_on(store.task(*id)).unwrap();
            let order = [Queued, ClaimedState, TaskState::Failed];
            let at = |s: TaskState| order.iter().position(|o| *o == s);
            assert!(at(task.state) >= at(*state), "{id}: promised {state:?}, found {:?}", task.state);
        }
        // The session of the attempt that was cut short is freed, as a starting daemon does it.
        for (attempt, _) in rt.block_on(store.live_attempts()).unwrap() {
            let back = Change::default().uncharged();
            assert!(rt.block_on(store.transition(attempt.key, &[ClaimedState], Queued, back)).unwrap());
        }
        promised.retain(|_, s| *s == TaskState::Failed);
    }
}

fn note(line: &str, promised: &mut std::collections::BTreeMap<TaskId, TaskState>) -> bool {
    let Some((what, id)) = line.split_once(' ') else { return false };
    let state = match what {
        "added" => Queued,
        "claimed" => ClaimedState,
        "ended" => TaskState::Failed,
        _ => return false,
    };
    let Ok(id) = id.parse() else { return false };
    promised.insert(id, state);
    true
}
