//! The result of a demo in the hands of PostgreSQL 15: its own programs make the pages, check them,
//! and read them.
//!
//! PostgreSQL does not run as root: as root the tests take the system's `postgres` user for it. It
//! listens on a Unix socket in a temporary folder only.

mod support;

use pagewire_node::store::marks::Marks;
use pagewire_protocol::{ClusterId, Incarnation, InstanceId, PageSize, page};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Once,
};
use support::{
    pages::{PAGE_BYTES, read_pages},
    process::{Process, say},
};

/// Set where PostgreSQL must be there, as in CI.
const REQUIRE: &str = "PAGEWIRE_REQUIRE_POSTGRES";
const PROGRAMS: [&str; 5] = ["initdb", "pg_ctl", "pg_checksums", "pgbench", "psql"];
const VERSION: &str = "15";

/// Who PostgreSQL runs as, when that is not whoever runs the tests.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// PostgreSQL's programs and a data directory; the server is stopped when it is dropped.
struct Postgres {
    programs: PathBuf,
    user: Option<User>,
    folder: tempfile::TempDir,
    is_running: bool,
}

/// Where PostgreSQL 15's programs are and who may run them, or why they cannot be used.
fn find() -> Result<(PathBuf, Option<User>), String> {
    let packaged = Path::new("/usr/lib/postgresql").join(VERSION).join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = [packaged].into_iter().chain(std::env::split_paths(&path)).collect();
    let has_all = |folder: &PathBuf| {
        PROGRAMS.iter().all(|program| folder.join(program).is_file()) && is_right_version(folder)
    };
    let programs = folders.into_iter().find(has_all);
    let programs = programs.ok_or("there are no programs of PostgreSQL 15")?;
    let me = id(&["-u"]).ok_or("there is no program 'id'")?;
    if me != 0 {
        return Ok((programs, None));
    }
    let user = id(&["-u", "postgres"]).zip(id(&["-g", "postgres"]));
    let (uid, gid) = user.ok_or("as root there must be a user 'postgres'")?;
    Ok((programs, Some(User { uid, gid })))
}

fn is_right_version(folder: &Path) -> bool {
    let output = Command::new(folder.join("initdb")).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().last().is_some_and(|v| v.split('.').next() == Some(VERSION))
        || text.contains(&format!(" {VERSION}."))
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

impl Postgres {
    /// A data directory with checksums, its server running; `None`, with a line that says why, where
    /// there is no PostgreSQL.
    fn start() -> Option<Self> {
        let (programs, user) = match find() {
            Ok(found) => found,
            Err(reason) => {
                assert!(std::env::var_os(REQUIRE).is_none(), "{REQUIRE} is set, but {reason}");
                static TOLD: Once = Once::new();
                let told = format!("skipped: {reason}; install it: apt-get install postgresql-15");
                TOLD.call_once(|| say(&told));
                return None;
            }
        };
        let folder = tempfile::Builder::new().prefix("pagewire-pg-").tempdir();
        let folder = folder.expect("a temporary folder");
        if let Some(User { uid, gid }) = user {
            chown(folder.path(), Some(uid), Some(gid)).expect("a folder of that user");
        }
        let mut postgres = Self { programs, user, folder, is_running: false };
        let data = postgres.data();
        postgres.run(
            postgres
                .program("initdb")
                .args(["--data-checksums", "--auth=trust", "--username=postgres", "--no-sync"])
                .args(["--locale=C", "--encoding=UTF8", "-D"])
                .arg(&data),
        );
        postgres.up();
        Some(postgres)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A program, to be run as the user that PostgreSQL runs as.
    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = match self.user {
            None => Command::new(program),
            Some(User { uid, gid }) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
                command.arg("--clear-groups").arg(program);
                command
            }
        };
        // Neither the caller's settings nor a folder that user may not enter.
        command.current_dir("/").stdin(Stdio::null()).env_remove("PGDATA").env_remove("PGOPTIONS");
        command.env("PGHOST", self.folder.path()).env("PGUSER", "postgres");
        command.env("PGPORT", "5432").env("PGDATABASE", "postgres");
        command
    }

    fn run(&self, command: &mut Command) -> String {
        let Output { status, stdout, stderr } = command.output().expect("the program starts");
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}{log}");
        stdout.into_owned()
    }

    /// Starts the server; it goes on when `pg_ctl` has ended, so its output goes to a file.
    fn up(&mut self) {
        let socket = self.folder.path().display();
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{socket}' -c fsync=off \
             -c autovacuum=off"
        );
        let log = self.folder.path().join("log");
        // Whatever happens now, it is to be stopped.
        self.is_running = true;
        let mut command = self.program("pg_ctl");
        command.args(["start", "--wait", "--timeout=120", "-D"]).arg(self.data());
        command.arg("-l").arg(&log).args(["-o", &options]);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let log = fs::read_to_string(log).unwrap_or_default();
        assert!(status.expect("pg_ctl starts").success(), "the server does not start: {log}");
    }

    fn down(&mut self) {
        let data = self.data();
        self.run(self.program("pg_ctl").args(["stop", "--mode=fast", "--wait", "-D"]).arg(data));
        self.is_running = false;
    }

    fn pgbench(&self, arguments: &[&str]) {
        self.run(self.program("pgbench").args(arguments));
    }

    /// The one value or row that `sql` returns.
    fn query(&self, sql: &str) -> String {
        let text = self.run(self.program("psql").args([
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--set=ON_ERROR_STOP=1",
            "-c",
            sql,
        ]));
        text.trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.is_running {
            let mut stop = self.program("pg_ctl");
            stop.args(["stop", "--mode=immediate", "--wait", "-D"]).arg(self.data());
            let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Sums of which every row of `pgbench_accounts` is a part.
const ASK: &str = "SELECT count(*), sum(abalance), sum(aid::bigint * abalance), \
                   md5(string_agg(filler, '' ORDER BY aid)) FROM pgbench_accounts";

/// Asserts that our checksum is PostgreSQL's on every page of `file`; returns how many have one.
fn assert_checksums_agree(file: &Path) -> usize {
    let mut used = 0;
    for (block, page) in read_pages(file, 0) {
        page::verify_checksum(&page, block).expect("PostgreSQL's own checksum");
        if !page::is_new(&page) {
            used += 1;
            assert_eq!(page::checksum(&page, block), page::stored_checksum(&page), "{block}");
        }
    }
    used
}

/// Runs the demo on a copy of a relation that pgbench has filled and used, puts the result in place,
/// and lets PostgreSQL judge it.
fn give_back(table: &str, demo: &[&str]) {
    let Some(mut postgres) = Postgres::start() else { return };
    postgres.pgbench(&["--initialize", "--quiet", "--scale=1"]);
    postgres.pgbench(&["--client=4", "--jobs=2", "--transactions=250", "--no-vacuum"]);
    postgres.query("CHECKPOINT");
    let before = postgres.query(ASK);
    let balances = postgres.query("SELECT sum(abs(abalance)) FROM pgbench_accounts");
    assert_ne!(balances, "0", "pgbench has moved money");
    let path = postgres.query(&format!("SELECT pg_relation_filepath('{table}')"));
    postgres.down();

    let relation = postgres.data().join(path);
    let original = fs::read(&relation).expect("the relation's file");
    let used = assert_checksums_agree(&relation);
    assert!(used > 0, "pages are there");

    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = folder.path().join(relation.file_name().expect("a name"));
    let out = folder.path().join("result");
    fs::write(&copy, &original).expect("a copy");
    let mut command = Process::command(["demo", "--json", "--seconds", "2"]);
    command.args(demo).arg("--pages").arg(&copy).arg("--out").arg(&out);
    let report = Process::start(&mut command).end().succeeded().stdout;
    let report: serde_json::Value = serde_json::from_str(&report).expect("one JSON object");
    assert_eq!(report["verified"], true, "{report}");
    assert_eq!(report["pages"], original.len() / PAGE_BYTES, "{report}");
    assert!(report["transfers"].as_u64() > Some(0), "{report}");
    if demo.contains(&"--cache-pages") {
        let reads = report["grants"]["storage"]["count"].as_u64();
        assert!(reads > Some(2 * used as u64), "pages are given up and read again: {report}");
    }
    assert_eq!(fs::read(&copy).expect("the copy"), original, "the source is only read");
    assert_eq!(assert_checksums_agree(&out), used);
    let result = fs::read(&out).expect("the result");
    assert_ne!(result, original, "the accounts are in the free space");
    for (page, was) in result.chunks(PAGE_BYTES).zip(original.chunks(PAGE_BYTES)) {
        assert_eq!(page::lsn(page), page::lsn(was), "each page has its own LSN");
    }

    // Written over, so that owner and rights stay.
    fs::write(&relation, &result).expect("in place");
    // A cluster that has this folder for its storage leaves marks there, which PostgreSQL passes over.
    let marks = Marks::claim(&postgres.data(), ClusterId(1), PageSize::K8).expect("marks");
    marks.leave(InstanceId(0), Incarnation(1)).expect("a mark");
    let checked =
        postgres.run(postgres.program("pg_checksums").args(["--check", "-D"]).arg(postgres.data()));
    assert!(checked.contains("Bad checksums:  0"), "{checked}");
    postgres.up();
    assert_eq!(postgres.query(ASK), before);
    // It also changes and writes those pages again.
    postgres.pgbench(&["--client=2", "--transactions=50", "--no-vacuum"]);
    postgres.query("VACUUM pgbench_accounts");
    postgres.query("CHECKPOINT");
    let count = postgres.query("SELECT count(*) FROM pgbench_accounts");
    assert_eq!(before.split('|').next(), Some(count.as_str()));
    postgres.down();
    assert_checksums_agree(&relation);
    let mode = fs::metadata(&relation).expect("the relation").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn postgresql_reads_what_the_demo_gives_back() {
    give_back("pgbench_accounts", &[]);
}

#[test]
fn postgresql_reads_what_a_demo_that_evicts_all_the_time_gives_back() {
    give_back("pgbench_accounts", &["--cache-pages", "64", "--nodes", "4"]);
}

#[test]
fn postgresql_uses_an_index_that_the_demo_gave_back() {
    give_back("pgbench_accounts_pkey", &["--nodes", "2"]);
}
