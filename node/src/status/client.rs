//! The asker's end.

use super::{StatusError, place::Places, protocol, server};
use crate::{NodeConfig, file_kind};
use serde_json::Value;
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long it is waited for an answer: those that others wait for come first.
const LIMIT: Duration = Duration::from_secs(10);
const _: () = assert!(LIMIT.as_secs() > 2 * server::PATIENCE.as_secs());
/// Longest answer that is taken, in bytes.
const ANSWER_MAX_BYTES: u64 = 64 << 20;

/// Asks the running node that `config` describes.
///
/// # Errors
/// [`StatusError`].
pub fn ask(config: &NodeConfig, query: &protocol::Query) -> Result<Value, StatusError> {
    let places = Places::of(config);
    let mut tried = Vec::new();
    for path in places.to_ask() {
        match look(path)? {
            Some(found) => tried.push(format!("{found} at {}", path.display())),
            None => match ask_at(path, query.line(), LIMIT)? {
                Some(answer) => return judge(path, config, &answer),
                None => {
                    tried.push(format!("a socket that nobody listens on at {}", path.display()));
                }
            },
        }
    }
    let nothing = || "none of the usual places".to_owned();
    Err(StatusError::NotRunning {
        instance: config.instance,
        cluster: config.cluster,
        tried: if tried.is_empty() { nothing() } else { tried.join(", ") },
    })
}

/// Whether there is a socket; if there is nothing, that in words.
fn look(path: &Path) -> Result<Option<&'static str>, StatusError> {
    match fs::metadata(path) {
        Ok(about) if about.file_type().is_socket() => Ok(None),
        Ok(about) => {
            let found = if about.is_file() {
                "a regular file"
            } else {
                file_kind::in_words(about.file_type())
            };
            Err(StatusError::NoSocket { path: path.to_owned(), found })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some("nothing")),
        Err(source) => Err(StatusError::Connect { path: path.to_owned(), source }),
    }
}

/// The bytes that are answered; `None`: nobody listens.
fn ask_at(path: &Path, question: String, limit: Duration) -> Result<Option<Vec<u8>>, StatusError> {
    let (sender, answers) = mpsc::channel();
    let owned = path.to_owned();
    // A thread, because no system call of these can be given a limit for all of it. It goes with the
    // process if it is never done.
    thread::spawn(move || sender.send(talk(&owned, question.as_bytes())));
    let silent = || StatusError::Silent { path: path.to_owned(), limit_s: limit.as_secs() };
    answers.recv_timeout(limit).map_err(|_| silent())?
}

fn talk(path: &PathBuf, question: &[u8]) -> Result<Option<Vec<u8>>, StatusError> {
    let failed = |source| StatusError::Connect { path: path.clone(), source };
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // Whoever closes without reading may have answered all the same.
    let _ = stream.write_all(question);
    let mut answer = Vec::new();
    match stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer) {
        Ok(_) => Ok(Some(answer)),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Some(answer)),
        Err(error) => Err(failed(error)),
    }
}

/// What the answer says, if it is one, and of the instance that was meant.
fn judge(path: &Path, config: &NodeConfig, answer: &[u8]) -> Result<Value, StatusError> {
    let foreign = |found| StatusError::Foreign { path: path.to_owned(), found };
    let answer = protocol::parse_answer(answer).map_err(foreign)?;
    let answer = answer.map_err(|problem| StatusError::Refused { problem })?;
    let number = |key: &str| answer.get(key).and_then(Value::as_u64);
    let (cluster, instance) = (config.cluster, config.instance);
    let found_instance = number("instance").and_then(|id| u16::try_from(id).ok());
    let Some((found_cluster, found_instance)) = number("cluster").zip(found_instance) else {
        return Err(foreign("JSON without cluster and instance".to_owned()));
    };
    if (found_cluster, found_instance) != (cluster.0, instance.0) {
        return Err(StatusError::OtherInstance {
            path: path.to_owned(),
            found_instance: pagewire_protocol::InstanceId(found_instance),
            found_cluster: pagewire_protocol::ClusterId(found_cluster),
            instance,
            cluster,
        });
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn whoever_listens_and_says_nothing_is_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mute.sock");
        let _mute = UnixListener::bind(&path).unwrap();
        let limit = Duration::from_millis(20);
        let error = ask_at(&path, "{}\n".to_owned(), limit).unwrap_err();
        assert!(matches!(error, StatusError::Silent { .. }), "{error}");
        assert!(error.to_string().contains("did not answer"), "{error}");
    }
}
