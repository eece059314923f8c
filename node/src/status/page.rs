//! `pagewire page TAG`: one page, as its master knows it, asked through the node on this host.

use super::{StatusError, client, members, peer::PeerStatus, protocol::Query, text};
use crate::{
    NodeConfig,
    runtime::{Node, PeerLinks},
};
use pagewire_protocol::BufferTag;
use serde::{Deserialize, Serialize};
use std::{
    fmt::Write as _,
    io::{Write, stdout},
    path::PathBuf,
    time::Duration,
};

/// How long the master may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Say what the directory knows of one page
#[derive(Debug, Clone, clap::Args)]
pub struct PageOptions {
    /// The page: TABLESPACE/DATABASE/RELATION:BLOCK, as logs and errors name it (1663/5/16384:3;
    /// other forks have _fsm, _vm or _init behind the relation)
    #[arg(value_name = "TAG")]
    pub tag: BufferTag,
    /// TOML file of an instance on this host, as it was started with
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// One JSON object on standard output instead of lines
    #[arg(long)]
    pub json: bool,
}

/// One page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PageStatus {
    /// The cluster.
    pub cluster: u64,
    /// The instance that was asked, which asked the master.
    pub instance: u16,
    /// The page.
    pub page: String,
    /// The part of the directory that it is in.
    pub partition: u16,
    /// Who masters that.
    pub master: u16,
    /// Who holds the current version.
    pub owner: Option<u16>,
    /// In which mode it is held: N, S or X.
    pub mode: String,
    /// Everyone who holds it.
    pub holders: Vec<u16>,
    /// Requests that wait.
    pub queued: u16,
    /// A grant is on its way.
    pub converting: bool,
    /// The master is finding out who has it.
    pub repairing: bool,
    /// It waits for the redo of an instance that has died.
    pub lost: bool,
    /// Everyone who keeps a past image of it.
    pub past_images: Vec<u16>,
    /// The last grant's number.
    pub grant: u64,
    /// Greatest version known.
    pub version: u64,
    /// Greatest version known to be on storage.
    pub stored: u64,
}

/// Whether the master of page `tag` can be asked at all; `peer` says what is known of one.
///
/// # Errors
/// Why not, in words for whoever asks.
pub(super) fn can_be_asked(
    node: &Node,
    tag: BufferTag,
    peer: impl Fn(&PeerLinks) -> PeerStatus,
) -> Result<(), String> {
    let master = node.view().master(&tag);
    let links = node.links();
    let Some(links) = links.iter().find(|links| links.peer == master) else { return Ok(()) };
    let shards = u16::try_from(links.on.len()).unwrap_or(u16::MAX);
    if links.on.get(usize::from(tag.shard(shards))).is_none_or(Option::is_some) {
        return Ok(());
    }
    let peer = peer(links);
    let until = members::problem(&peer).unwrap_or_default();
    Err(format!(
        "page {tag} is in partition {}, which instance {master} masters, and there is no link with that\
         {}; requests for the page are not granted {until}",
        tag.partition(),
        text::why_none(&peer)
    ))
}

/// What the master of page `tag` says of it, through `node`.
///
/// # Errors
/// Why not, in words for whoever asks.
pub(super) fn of(node: &Node, cluster: u64, tag: BufferTag) -> Result<PageStatus, String> {
    let (master, stat) = node.page_stat(tag, LIMIT).map_err(|error| error.to_string())?;
    if !stat.known {
        return Err(format!(
            "the directory has no entry of page {tag}: no instance holds it, and none has since its \
             master, instance {master}, keeps it (is it the page you mean?)"
        ));
    }
    let set = |mask: u64| (0..64).filter(|id| mask >> id & 1 == 1).collect();
    let mode = match (stat.exclusive, stat.holders) {
        (_, 0) => "N",
        (true, _) => "X",
        (false, _) => "S",
    };
    Ok(PageStatus {
        cluster,
        instance: node.identity().0.0,
        page: tag.to_string(),
        partition: tag.partition().0,
        master: master.0,
        owner: stat.owner.map(|owner| owner.0),
        mode: mode.to_owned(),
        holders: set(stat.holders),
        queued: stat.queued,
        converting: stat.converting,
        repairing: stat.repairing,
        lost: stat.lost,
        past_images: set(stat.past_images),
        grant: stat.grant.0,
        version: stat.version.0,
        stored: stat.stored.0,
    })
}

/// Asks the node of `config` and tells the answer on standard output.
///
/// # Errors
/// [`StatusError`].
pub fn run(options: &PageOptions, config: &NodeConfig) -> Result<(), StatusError> {
    let answer = client::ask(config, &Query::Page(options.tag))?;
    let out = if options.json {
        format!("{answer}\n")
    } else {
        let status = PageStatus::deserialize(&answer).map_err(|error| StatusError::Refused {
            problem: format!(
                "its answer is of another version ({error}): use the node's own program, or --json"
            ),
        })?;
        text(&status)
    };
    let mut to = stdout();
    Ok(to.write_all(out.as_bytes()).and_then(|()| to.flush())?)
}

/// Lines, each with its end.
fn text(status: &PageStatus) -> String {
    let list = |ids: &[u16]| match ids {
        [] => "nobody".to_owned(),
        ids => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let PageStatus { page, partition, master, mode, queued, grant, version, stored, .. } = status;
    let owner = status.owner.map_or("nobody".to_owned(), |owner| format!("instance {owner}"));
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "page {page}, partition {partition}, mastered by instance {master}");
    let _ = writeln!(out, "owner        {owner}, mode {mode}");
    let _ = writeln!(out, "holders      {}", list(&status.holders));
    let busy = if status.converting { ", a grant is on its way" } else { "" };
    let _ = writeln!(out, "queue        {queued} waiting{busy}");
    let _ = writeln!(out, "past images  {}", list(&status.past_images));
    let _ = writeln!(out, "grant        {grant}");
    let _ = writeln!(out, "version      {version}, on storage {stored}");
    if status.repairing {
        out.push_str("repair       the master is finding out who has the page\n");
    }
    if status.lost {
        out.push_str("lost         waits for the redo of an instance that has died\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_known_of_a_page_is_told() {
        let page = PageStatus {
            page: "1663/5/16384:3".to_owned(),
            partition: 77,
            master: 2,
            owner: Some(1),
            mode: "X".to_owned(),
            holders: vec![1],
            queued: 4,
            converting: true,
            past_images: vec![0, 2],
            grant: 9,
            version: 1234,
            stored: 1200,
            ..PageStatus::default()
        };
        let expected = "\
page 1663/5/16384:3, partition 77, mastered by instance 2
owner        instance 1, mode X
holders      1
queue        4 waiting, a grant is on its way
past images  0, 2
grant        9
version      1234, on storage 1200
";
        assert_eq!(text(&page), expected);
        let page = PageStatus { lost: true, repairing: true, ..PageStatus::default() };
        let told = text(&page);
        for part in ["owner        nobody", "holders      nobody", "redo of an", "finding out"] {
            assert!(told.contains(part), "'{part}' in: {told}");
        }
    }
}
