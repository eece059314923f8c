//! The command: asks, and tells the answer.

use super::{StatusError, answer::Status, client, protocol::Query, text};
use crate::NodeConfig;
use serde::Deserialize;
use std::{
    io::{Write, stdout},
    path::PathBuf,
};

/// Say what a running node says of itself
#[derive(Debug, Clone, clap::Args)]
pub struct StatusOptions {
    /// TOML file of the instance, as it was started with
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// One JSON object on standard output instead of lines
    #[arg(long)]
    pub json: bool,
}

/// Asks the node of `config` and tells the answer on standard output.
///
/// # Errors
/// [`StatusError`].
pub fn run(options: &StatusOptions, config: &NodeConfig) -> Result<(), StatusError> {
    let answer = client::ask(config, &Query::Status)?;
    let out = if options.json {
        format!("{answer}\n")
    } else {
        let status = Status::deserialize(&answer).map_err(|error| StatusError::Refused {
            problem: format!(
                "its answer is of another version ({error}): use the node's own program, or --json"
            ),
        })?;
        text::of(&status)
    };
    let mut to = stdout();
    Ok(to.write_all(out.as_bytes()).and_then(|()| to.flush())?)
}
