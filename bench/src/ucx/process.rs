//! One run of `ucx_perftest`: a server and a client, each on its core, gone when the run is over.
//!
//! The server waits for one client and ends after it. Nobody can ask it whether it listens yet
//! without being taken for that client, so a client that comes too early is started again.

use crate::error::BenchError;
use std::{
    env,
    fs::{self, File},
    io::{Read, Seek},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

const PROGRAM: &str = "ucx_perftest";
/// Longest time until the server listens.
const START_MAX: Duration = Duration::from_secs(10);
/// Longest run.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Messages before those that are measured, as ours.
const WARM_UP_MAX: u32 = 10_000;

/// The program on the PATH.
///
/// # Errors
/// [`BenchError::Tool`] that says what to install.
pub(super) fn find() -> Result<PathBuf, BenchError> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let runs = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&folders).map(|folder| folder.join(PROGRAM)).find(runs).ok_or_else(|| {
        BenchError::Tool(format!(
            "{PROGRAM} is not on the PATH: install UCX (Debian and Ubuntu: apt-get install \
             ucx-utils)"
        ))
    })
}

/// Runs `test` with messages of `size` bytes and returns what the client printed.
///
/// # Errors
/// [`BenchError::Tool`] with what either of them printed.
pub(super) fn run(
    program: &Path,
    test: &str,
    size: usize,
    count: u32,
    [client_core, server_core]: [usize; 2],
) -> Result<String, BenchError> {
    let port = free_port()?.to_string();
    let mut server = Running::start(program, &["-c", &server_core.to_string(), "-p", &port])?;
    let (size, count) = (size.to_string(), count);
    let warm_up = count.min(WARM_UP_MAX).to_string();
    let (count, core) = (count.to_string(), client_core.to_string());
    let args = [
        "127.0.0.1",
        "-c",
        &core,
        "-p",
        &port,
        "-t",
        test,
        "-s",
        &size,
        "-n",
        &count,
        "-w",
        &warm_up,
        "-f",
        "-v",
    ];
    let begun = Instant::now();
    loop {
        let mut client = Running::start(program, &args)?;
        let status = client.wait(RUN_MAX)?;
        let (output, errors) = client.printed()?;
        if status.success() {
            server.wait(START_MAX)?;
            return Ok(output);
        }
        let server_lives = server.lives()?;
        let too_early = errors.contains("refused") || output.contains("refused");
        if too_early && server_lives && begun.elapsed() < START_MAX {
            // The server tells nobody that it listens: what it prints stays in its buffer until its end.
            continue;
        }
        let (server_output, server_errors) = server.printed()?;
        return Err(BenchError::Tool(format!(
            "{PROGRAM} -t {test} ended with {status}; the client printed {:?}, the server {:?}",
            (output + &errors).trim(),
            (server_output + &server_errors).trim()
        )));
    }
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, BenchError> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    Ok(listener.local_addr()?.port())
}

/// A child process with its output in files; killed, by its id, with the value.
#[derive(Debug)]
struct Running {
    child: Child,
    output: File,
    errors: File,
}

impl Running {
    fn start(program: &Path, args: &[&str]) -> Result<Self, BenchError> {
        let failed = |e| BenchError::Tool(format!("{} cannot be started: {e}", program.display()));
        let file = || tempfile::tempfile().map_err(BenchError::Storage);
        let (output, errors) = (file()?, file()?);
        let child = Command::new(program)
            .args(args)
            .env("UCX_TLS", "tcp")
            .env("UCX_NET_DEVICES", "lo")
            // Its warnings would otherwise stand between the figures.
            .env("UCX_LOG_LEVEL", "error")
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(BenchError::Storage)?)
            .stderr(errors.try_clone().map_err(BenchError::Storage)?)
            .spawn()
            .map_err(failed)?;
        Ok(Self { child, output, errors })
    }

    fn lives(&mut self) -> Result<bool, BenchError> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for the end without a look in between: both cores are busy with the measurement.
    fn wait(&mut self, limit: Duration) -> Result<ExitStatus, BenchError> {
        let (ended, end) = mpsc::channel::<()>();
        let id = self.child.id();
        let child = &mut self.child;
        thread::scope(|scope| {
            let guard = scope.spawn(move || match end.recv_timeout(limit) {
                Err(RecvTimeoutError::Timeout) => {
                    // Not waited for yet, so the id is still this child's.
                    let kill = ["-c", "kill -KILL \"$0\"", &id.to_string()];
                    let _ = Command::new("sh").args(kill).status();
                    true
                }
                _ => false,
            });
            let status = child.wait();
            drop(ended);
            let killed = guard.join().map_err(|_| BenchError::Panicked("guard"))?;
            if killed {
                return Err(BenchError::Tool(format!("{PROGRAM} took longer than {limit:?}")));
            }
            Ok(status?)
        })
    }

    fn printed(&mut self) -> Result<(String, String), BenchError> {
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            file.rewind()
                .and_then(|()| file.read_to_end(&mut bytes))
                .map_err(BenchError::Storage)?;
            Ok::<_, BenchError>(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok((read(&mut self.output)?, read(&mut self.errors)?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
