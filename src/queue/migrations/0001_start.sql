-- Times are microseconds since 1970 (UTC). Plain SQL: a PostgreSQL store comes behind the same interface.

CREATE TABLE pools (
    name        TEXT PRIMARY KEY,
    spec        TEXT NOT NULL,                       -- JSON: agent, argv, cwd, seat
    size        INTEGER NOT NULL CHECK (size >= 0),
    created_us  INTEGER NOT NULL
);

CREATE TABLE sessions (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT NOT NULL UNIQUE,
    pool           TEXT REFERENCES pools(name) ON DELETE SET NULL,
    spec           TEXT NOT NULL,                    -- JSON: SessionSpec
    wanted         TEXT NOT NULL,                    -- up, down
    state          TEXT NOT NULL,
    since_us       INTEGER NOT NULL,
    cwd            TEXT NOT NULL,                    -- where it stands now
    branch         TEXT,
    context_hash   TEXT,
    run            TEXT,
    pane           TEXT,
    conversation   TEXT,
    last_active_us INTEGER,
    failures       INTEGER NOT NULL DEFAULT 0,       -- starts that failed in a row
    retry_at_us    INTEGER,
    aside          TEXT,                             -- why the breaker is open
    created_us     INTEGER NOT NULL
);

CREATE TABLE runs (
    id          TEXT PRIMARY KEY,
    session     TEXT NOT NULL,
    spec        TEXT NOT NULL,                       -- JSON: run.json
    task        INTEGER,
    fence       INTEGER,
    cursor      INTEGER NOT NULL DEFAULT 0,          -- last journal line ingested
    created_us  INTEGER NOT NULL,
    ended_us    INTEGER,
    end_reason  TEXT,
    code        INTEGER,
    signal      INTEGER
);
CREATE INDEX runs_live ON runs(created_us) WHERE ended_us IS NULL;

CREATE TABLE tasks (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    spec            TEXT NOT NULL,                   -- JSON: TaskSpec
    idempotency_key TEXT UNIQUE,
    lane            TEXT NOT NULL,                   -- which sessions may take it, see schedule::lane
    place           TEXT NOT NULL,                   -- where it works, see schedule::place
    priority        INTEGER NOT NULL,
    turn            INTEGER NOT NULL,                -- lower goes first, see schedule::turn
    state           TEXT NOT NULL,
    was             TEXT NOT NULL,                   -- the state before: what the event of the transition needs
    reason          TEXT,
    detail          TEXT,
    waiting_for     TEXT,
    fence           INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0,      -- charged
    deps_open       INTEGER NOT NULL DEFAULT 0,
    created_us      INTEGER NOT NULL,
    changed_us      INTEGER NOT NULL,
    due_us          INTEGER,                         -- not before; only while queued or retry_wait, cleared when it has passed
    answer          TEXT,
    proof           TEXT,
    duration_ms     INTEGER,
    worktree        TEXT,
    last_session    TEXT,
    last_run        TEXT
);
CREATE INDEX tasks_claimable ON tasks(lane, turn, id) WHERE state = 'queued' AND deps_open = 0 AND due_us IS NULL;
CREATE INDEX tasks_places ON tasks(lane, place, turn, id) WHERE state = 'queued' AND deps_open = 0 AND due_us IS NULL;
CREATE INDEX tasks_due ON tasks(due_us) WHERE due_us IS NOT NULL;
CREATE INDEX tasks_state ON tasks(state);            -- counts and lists, without reading the wide rows

CREATE TABLE task_deps (
    task  INTEGER NOT NULL REFERENCES tasks(id) ON DELETE CASCADE,
    dep   INTEGER NOT NULL REFERENCES tasks(id) ON DELETE CASCADE,
    met   INTEGER NOT NULL,                          -- completed, or waived by a human
    PRIMARY KEY (task, dep)
);
CREATE INDEX task_deps_dep ON task_deps(dep);

CREATE TABLE contexts (
    hash        TEXT PRIMARY KEY,
    context     TEXT NOT NULL,                       -- JSON, names of variables without their values
    created_us  INTEGER NOT NULL
);

CREATE TABLE attempts (
    task          INTEGER NOT NULL REFERENCES tasks(id) ON DELETE CASCADE,
    fence         INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    session       TEXT NOT NULL,
    live          INTEGER NOT NULL DEFAULT 1,        -- it holds its session and tree
    tree          TEXT,                              -- held exclusively; none while shared or not chosen yet
    worktree      TEXT,
    context_hash  TEXT,
    run           TEXT,                              -- the one run that is sent to
    conversation  TEXT,
    score         TEXT,                              -- JSON: why this session
    started_us    INTEGER NOT NULL,
    ended_us      INTEGER,
    outcome       TEXT,                              -- state of the task that it ended in
    reason        TEXT,
    detail        TEXT,
    charged       INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (task, fence)
);
CREATE UNIQUE INDEX attempts_live_task ON attempts(task) WHERE live = 1;
CREATE UNIQUE INDEX attempts_live_session ON attempts(session) WHERE live = 1;
CREATE UNIQUE INDEX attempts_live_tree ON attempts(tree) WHERE live = 1 AND tree IS NOT NULL;

CREATE TABLE attempt_steps (
    task   INTEGER NOT NULL,
    fence  INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    step   TEXT NOT NULL,
    data   TEXT NOT NULL,                            -- JSON
    at_us  INTEGER NOT NULL,
    PRIMARY KEY (task, fence, n),
    FOREIGN KEY (task, fence) REFERENCES attempts(task, fence) ON DELETE CASCADE
);

CREATE TABLE gates (
    task         INTEGER NOT NULL,
    fence        INTEGER NOT NULL,
    n            INTEGER NOT NULL,
    command      TEXT NOT NULL,
    started_us   INTEGER NOT NULL,
    passed       INTEGER,                            -- none: started and not finished
    code         INTEGER,
    output       TEXT,
    duration_ms  INTEGER,
    PRIMARY KEY (task, fence, n),
    FOREIGN KEY (task, fence) REFERENCES attempts(task, fence) ON DELETE CASCADE
);

CREATE TABLE approvals (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    run          TEXT NOT NULL,
    task         INTEGER,
    fence        INTEGER,
    kind         TEXT NOT NULL,                      -- permission, question
    hash         TEXT NOT NULL,                      -- of exactly what was shown: an answer is bound to it
    ask          TEXT NOT NULL,                      -- JSON
    asked_us     INTEGER NOT NULL,
    answer       TEXT,
    answered_us  INTEGER,
    closed_us    INTEGER                             -- no longer asked: answered by us or in the terminal, or gone
);
CREATE UNIQUE INDEX approvals_open ON approvals(run) WHERE closed_us IS NULL;

CREATE TABLE parked (
    provider  TEXT PRIMARY KEY,
    until_us  INTEGER NOT NULL,
    why       TEXT NOT NULL
);

CREATE TABLE events (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    run      TEXT,
    seq      INTEGER,
    ts_us    INTEGER NOT NULL,
    task     INTEGER,
    session  TEXT,
    kind     TEXT NOT NULL,
    event    TEXT NOT NULL,                          -- JSON, without its id
    UNIQUE (run, seq)
);
CREATE INDEX events_task ON events(task, id) WHERE task IS NOT NULL;
