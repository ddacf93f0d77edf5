//! The queue against the disk: durable cycles beside an in-place fdatasync loop of the same minute, and claims out of a
//! million queued tasks. Prints `bench NAME VALUE UNIT RATIO OF`; `--short` runs one small round, `cycles` or `claims` that
//! half alone.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use orchwrap::assign::score::Score;
use orchwrap::clock;
use orchwrap::extract::event::SessionState;
use orchwrap::ids::Name;
use orchwrap::queue::schedule::{Assignment, Lane, Seat, World, schedule};
use orchwrap::queue::store::{Change, Store};
use orchwrap::queue::task::{TaskSpec, TaskState};

const WORKERS: usize = 8;

struct Size {
    rounds: usize,
    round: Duration,
    queued: usize,
    claims: usize,
}

fn main() {
    let size = if std::env::args().any(|a| a == "--short") {
        Size { rounds: 1, round: Duration::from_millis(500), queued: 20_000, claims: 200 }
    } else {
        Size { rounds: 9, round: Duration::from_secs(1), queued: 1_000_000, claims: 2_000 }
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // Not /tmp where that is memory: the disk is what is measured.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder beside the build");
    let wanted = |half: &str| !["cycles", "claims"].iter().any(|h| *h != half && std::env::args().any(|a| a == *h));
    runtime.block_on(async {
        if wanted("cycles") {
            cycles(dir.path(), &size).await;
        }
        if wanted("claims") {
            claims(dir.path(), &size).await;
        }
    });
}

fn line(name: &str, value: f64, unit: &str, ratio: Option<(f64, &str)>) {
    let (ratio, of) = ratio.map_or(("-".to_owned(), "-"), |(r, of)| (format!("{r:.2}"), of));
    println!("bench {name} {value:.1} {unit} {ratio} {of}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn spec(n: usize) -> TaskSpec {
    // Four pools and a hundred folders, as a busy machine has them.
    serde_json::from_value(serde_json::json!({
        "prompt": "fix the failing test and say what was wrong",
        "cwd": format!("/src/app-{}", n % 100),
        "pool": format!("pool-{}", n % 4),
        "priority": n % 3,
    }))
    .expect("a task")
}

fn name(text: String) -> Name {
    text.parse().expect("a name")
}

/// One page, written in place and made durable, over and over: what the disk can do.
fn fdatasync_loop(file: &Path, time: Duration) -> f64 {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(file).expect("a file");
    file.write_all_at(&[1; 4096], 0).expect("room");
    file.sync_all().expect("a disk");
    let start = Instant::now();
    let mut n = 0_u32;
    while start.elapsed() < time {
        file.write_all_at(&[n.to_le_bytes()[0]; 4096], 0).expect("room");
        file.sync_data().expect("a disk");
        n += 1;
    }
    f64::from(n) / start.elapsed().as_secs_f64()
}

/// Enqueue, claim, end: each durable before the next, by eight workers at once.
async fn queue_loop(store: &Store, time: Duration, latencies: &mut Vec<f64>) -> f64 {
    let start = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    let workers = (0..WORKERS).map(|worker| {
        let (store, done) = (store.clone(), done.clone());
        tokio::spawn(async move {
            let session = name(format!("s{worker}"));
            let mut took = Vec::new();
            while start.elapsed() < time {
                let began = Instant::now();
                let task = store.add_task(spec(worker)).await.expect("a task").id;
                let claim = Assignment { task, session: session.clone(), score: Score::default() };
                let claimed = store.claim(vec![claim]).await.expect("a claim").pop().expect("it is free");
                let ended = store
                    .transition(claimed.key, &[TaskState::Claimed], TaskState::Failed, Change::default())
                    .await
                    .expect("an end");
                assert!(ended);
                took.push(began.elapsed().as_secs_f64() * 1e3);
                done.fetch_add(1, Ordering::Relaxed);
            }
            took
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        latencies.extend(worker.await.expect("a worker"));
    }
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

async fn cycles(dir: &Path, size: &Size) {
    let store = Store::open(&dir.join("cycles.db")).expect("a store");
    let file = dir.join("page");
    queue_loop(&store, size.round / 4, &mut Vec::new()).await;
    let (mut ratios, mut rates, mut floors, mut latencies) = (vec![], vec![], vec![], vec![]);
    for round in 0..size.rounds {
        let floor = || fdatasync_loop(&file, size.round);
        let before = (round % 2 == 0).then(floor);
        let rate = queue_loop(&store, size.round, &mut latencies).await;
        let floor = before.unwrap_or_else(floor);
        ratios.push(rate / floor);
        rates.push(rate);
        floors.push(floor);
    }
    line("fdatasync", median(floors), "/s", None);
    line("durable_cycles_8_workers", median(rates), "/s", Some((median(ratios), "fdatasync")));
    line("durable_cycle_p99", percentile(&mut latencies, 0.99), "ms", None);
}

fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * p).round() as usize]
}

fn seat(n: usize) -> Seat {
    Seat {
        name: name(format!("s{n}")),
        pool: Some(name(format!("pool-{}", n % 4))),
        agent: "agent".to_owned(),
        provider: None,
        takes_tasks: true,
        state: SessionState::Idle,
        setup: None,
        draft: false,
        place: PathBuf::from(format!("/src/app-{n}")),
        branch: None,
        last_active: None,
        holder: None,
        down: None,
    }
}

/// From "a session is idle" to a durable claim, with everything the daemon does in between.
async fn claims(dir: &Path, size: &Size) {
    let store = Store::open(&dir.join("claims.db")).expect("a store");
    for from in (0..size.queued).step_by(5_000) {
        let to = (from + 5_000).min(size.queued);
        store.add_tasks((from..to).map(spec).collect()).await.expect("tasks");
    }
    let mut took = Vec::new();
    for n in 0..size.claims {
        let seat = seat(n % 16);
        let began = Instant::now();
        let lanes = Lane::served(&seat.name, seat.pool.as_ref(), &seat.agent);
        let window = store.window(lanes, 64).await.expect("a window");
        let world = World { now: clock::wall(), seats: vec![seat], max_live: 32, ..World::default() };
        let made = schedule(&window, &world);
        let claimed = store.claim(made.claims).await.expect("a claim").pop().expect("something is queued");
        took.push(began.elapsed().as_secs_f64() * 1e3);
        store
            .transition(claimed.key, &[TaskState::Claimed], TaskState::Failed, Change::default())
            .await
            .expect("an end");
    }
    line(&format!("claim_p50_of_{}", size.queued), percentile(&mut took, 0.5), "ms", None);
    line(&format!("claim_p99_of_{}", size.queued), percentile(&mut took, 0.99), "ms", None);
}
