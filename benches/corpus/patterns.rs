//! What is searched for: 35 phrases and 26 expressions of the kind that packs have, each with a line that it matches.

/// Phrases that stand somewhere in a line.
pub(crate) const PHRASES: [&str; 35] = [
    "Segmentation fault",
    "command not found",
    "No such file or directory",
    "Permission denied",
    "Connection refused",
    "Connection reset by peer",
    "No space left on device",
    "Too many open files",
    "Address already in use",
    "Cannot allocate memory",
    "Traceback (most recent call last)",
    "ModuleNotFoundError",
    "UnhandledPromiseRejection",
    "OutOfMemoryError",
    "NullPointerException",
    "AssertionError",
    "undefined reference to",
    "core dumped",
    "stack overflow",
    "deadlock detected",
    "data race",
    "certificate has expired",
    "Temporary failure in name resolution",
    "Could not resolve host",
    "Authentication failed",
    "merge conflict",
    "CONFLICT (content)",
    "would be overwritten by merge",
    "nothing to commit",
    "npm ERR!",
    "BUILD FAILED",
    "BUILD SUCCESSFUL",
    "rate limit exceeded",
    "quota exceeded",
    "Press any key to continue",
];

/// Expressions over a whole line, and a line that each matches; `#` stands for a number.
pub(crate) const EXPRESSIONS: [(&str, &str); 26] = [
    (
        r"^(?<file>[^\s:]+):(?<line>\d+)(:\d+)?: (fatal )?error: (?<message>.+)$",
        "src/net/pool.c:#:7: error: 'conn' undeclared",
    ),
    (
        r"^(?<file>[^\s:]+):(?<line>\d+):\d+: warning: (?<message>.+) \[-W(?<name>[a-z-]+)\]$",
        "src/net/pool.c:#:9: warning: unused variable 'n' [-Wunused-variable]",
    ),
    (r"^error\[E\d{4}\]: (?<message>.+)$", "error[E0308]: mismatched types"),
    (r"^ +--> (?<file>[^\s:]+):(?<line>\d+):\d+$", "  --> src/queue/store.rs:#:13"),
    (
        r"^(?<file>[^\s(]+)\((?<line>\d+),\d+\): error TS\d+: (?<message>.+)$",
        "src/app.ts(#,5): error TS2322: Type 'string' is not assignable",
    ),
    (
        r"^thread '.*' (\(\d+\) )?(?<message>panicked) at (?<file>[^\s:]+):(?<line>\d+):\d+",
        "thread 'main' panicked at src/main.rs:#:5:",
    ),
    (
        r"^test result: (ok|FAILED)\. (?<passed>\d+) passed; (?<failed>\d+) failed; (?<skipped>\d+) ignored",
        "test result: ok. # passed; 0 failed; 2 ignored; 0 measured; 0 filtered out",
    ),
    (
        r"^ *Summary \[.*\] +\d+ tests? run: (?<passed>\d+) passed(, (?<failed>\d+) failed)?(, (?<skipped>\d+) skipped)?",
        "     Summary [   1.204s] # tests run: # passed, 3 skipped",
    ),
    (
        r"^=+ ((?<failed>\d+) failed, )?((?<passed>\d+) passed)(, (?<skipped>\d+) skipped)?.* in \d",
        "======== 1 failed, # passed, 1 skipped in 0.12s ========",
    ),
    (r"^=+ (?<failed>\d+) failed(, (?<skipped>\d+) skipped)?.* in \d", "======== # failed in 0.12s ========"),
    (
        r"^ *Tests:? +((?<failed>\d+) failed[,| ]+)?((?<skipped>\d+) skipped[,| ]+)?(?<passed>\d+) passed",
        "Tests:       1 failed, 2 skipped, # passed, 8 total",
    ),
    (r"^--- FAIL: (?<name>\S+) \(\d+\.\d+s\)$", "--- FAIL: TestClaim (0.#s)"),
    (r"^panic: (?<message>.+)$", "panic: runtime error: index out of range [#] with length 3"),
    (r"^E  +(?<name>\w+Error): (?<message>.+)$", "E   ValueError: # is not a port"),
    (
        r#"^  File "(?<file>[^"]+)", line (?<line>\d+), in (?<name>.+)$"#,
        "  File \"/srv/app/worker.py\", line #, in handle",
    ),
    (r"^FAILED (?<file>[^\s:]+)::(?<name>\S+)", "FAILED tests/test_queue.py::test_claim_# - assert 1 == 2"),
    (r"^\[INFO\] Tests run: (?<run>\d+), Failures: (?<failed>\d+)", "[INFO] Tests run: #, Failures: 0, Errors: 0"),
    (r"^make(\[\d+\])?: \*\*\* (?<message>.+)$", "make: *** [Makefile:#: all] Error 2"),
    (
        r"^CMake Error at (?<file>[^\s:]+):(?<line>\d+) \((?<message>\w+)\):$",
        "CMake Error at CMakeLists.txt:# (find_package):",
    ),
    (r"^\[[\w/-]+ [0-9a-f]{7,40}\] (?<message>.+) \(root-commit\)$", "[main 0a1b2c3] first words # (root-commit)"),
    (r"^ \d+ files? changed, (?<added>\d+) insertions?\(\+\)", " 3 files changed, # insertions(+), 4 deletions(-)"),
    (r"https?://[^\s/]+/[^\s/]+/[^\s/]+/pull/(?<number>\d+)", "remote: https://example.org/a/b/pull/# was opened"),
    (r"exit(ed with)? (code|status):? (?<code>\d+)", "the command exited with code #"),
    (
        r"usage limit reached.*resets? (at )?(?<time>\d{1,2}(:\d\d)?\s?[ap]m)",
        "You are out: usage limit reached, resets at #pm",
    ),
    (r"(?<percent>\d+)% context (left|remaining)", "#% context left until auto-compact"),
    (r"Total cost: +\$(?<cost>\d+\.\d+)", "Total cost:            $0.#"),
];
