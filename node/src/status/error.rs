//! Why a node cannot be asked, or does not offer to be.

use pagewire_protocol::{ClusterId, InstanceId};
use std::{io, path::PathBuf};

/// Why a node cannot be asked, or does not offer to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// Nobody listens anywhere.
    #[error(
        "no node answers: found {tried}; expected instance {instance} of cluster {cluster} to run \
         on this host (`pagewire node --config FILE`), as this user or with the same status_socket"
    )]
    NotRunning {
        /// The instance.
        instance: InstanceId,
        /// Its cluster.
        cluster: ClusterId,
        /// Where it was looked for, and what was found there.
        tried: String,
    },
    /// Something else is there.
    #[error(
        "{} is {found}, expected the socket of a node: name another path in status_socket, or move \
         that away",
        path.display()
    )]
    NoSocket {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// It may not be used.
    #[error(
        "cannot reach {}: {source}; the socket is its node's user's alone: ask as that user or root",
        path.display()
    )]
    Connect {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever listens says nothing.
    #[error(
        "what listens on {} did not answer within {limit_s} s, expected one line: the node is \
         stopped or overloaded, or it is none",
        path.display()
    )]
    Silent {
        /// The path.
        path: PathBuf,
        /// How long it was waited for.
        limit_s: u64,
    },
    /// Whoever listens says something else.
    #[error(
        "what listens on {} answered {found}, expected a line of JSON: it is no Pagewire node, or \
         one of another version",
        path.display()
    )]
    Foreign {
        /// The path.
        path: PathBuf,
        /// What it said, in words.
        found: String,
    },
    /// Another instance listens.
    #[error(
        "instance {found_instance} of cluster {found_cluster} listens on {}, expected instance \
         {instance} of cluster {cluster}: each needs a status_socket of its own",
        path.display()
    )]
    OtherInstance {
        /// The path.
        path: PathBuf,
        /// Who listens.
        found_instance: InstanceId,
        /// And its cluster.
        found_cluster: ClusterId,
        /// Who was meant.
        instance: InstanceId,
        /// And its cluster.
        cluster: ClusterId,
    },
    /// The node has an answer, and it is no.
    #[error("the node refuses: {problem}")]
    Refused {
        /// What it said.
        problem: String,
    },
    /// The node cannot listen.
    #[error("no status is to be had on {}: {problem}", path.display())]
    Listen {
        /// The path.
        path: PathBuf,
        /// What was found, and what to do.
        problem: String,
    },
    /// The answer cannot be told.
    #[error("cannot write to standard output: {0}; check where it goes")]
    Output(#[from] io::Error),
}
