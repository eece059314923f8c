//! Instances in one process whose members change: a test decides the views, as a membership layer
//! would.

use super::{
    cluster::SMALL_CACHE,
    pages::{relation_path, storage},
    process::{PATIENCE, wait_for},
};
use pagewire_node::{
    Handle, Node, NodeConfig,
    runtime::{NothingToFlush, RedoLog},
    view::{Life, Member, View},
};
use pagewire_protocol::{BufferTag, ClusterId, Epoch, Incarnation, InstanceId, InstanceStat};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

/// Most instances that there are at a time.
const MEMBERS_MAX: u16 = 5;

/// See the module.
#[derive(Debug)]
pub(crate) struct Moving {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) nodes: BTreeMap<u16, Node>,
    pub(crate) view: Arc<View>,
    adjust: fn(&mut NodeConfig),
    lives: u64,
    /// Died, and their redo is not applied.
    dead: Vec<Life>,
}

fn member(id: u16, incarnation: u64) -> Member {
    Member { id: InstanceId(id), incarnation: Incarnation(incarnation), leaving: false }
}

impl Moving {
    /// Instances 0 to `nodes - 1` over `pages` pages, all linked.
    pub(crate) fn start(nodes: u16, pages: u32, adjust: fn(&mut NodeConfig)) -> Self {
        let members = (0..nodes).map(|id| member(id, u64::from(id) + 1)).collect();
        let view = Arc::new(View::first(Epoch(1), members).expect("a view"));
        let (folder, lives) = (storage(pages), nodes.into());
        let (nodes_of, dead) = (BTreeMap::new(), Vec::new());
        let mut moving = Self { folder, nodes: nodes_of, view, adjust, lives, dead };
        for id in 0..nodes {
            moving.start_node(id, &(Arc::new(NothingToFlush) as _));
        }
        for (id, node) in &moving.nodes {
            for (other, address) in moving.addresses() {
                if other.0 != *id {
                    node.add_peer(other, address).expect("a new peer");
                }
            }
        }
        moving.wait_for_links();
        moving
    }

    /// Starts instance `id`, which is in the view, in its life there; its peers do not know it yet.
    pub(crate) fn start_node(&mut self, id: u16, redo: &Arc<dyn RedoLog>) {
        // The view says who the members are.
        let members = vec![InstanceId(id)];
        let any_port = "127.0.0.1:0".parse().expect("an address");
        let path = self.folder.path().to_owned();
        let mut config = NodeConfig::new(ClusterId(77), InstanceId(id), members, any_port, path);
        config.arena_mb = 8;
        config.cache_pages = Some(SMALL_CACHE);
        config.members_max = Some(MEMBERS_MAX);
        config.first_view = Some(Arc::clone(&self.view));
        config.incarnation = self.view.member(InstanceId(id)).map(|member| member.incarnation);
        (self.adjust)(&mut config);
        self.nodes.insert(id, Node::start_with(&config, redo).expect("a node"));
    }

    pub(crate) fn addresses(&self) -> Vec<(InstanceId, std::net::SocketAddr)> {
        let address = |(id, node): (&u16, &Node)| (InstanceId(*id), node.listen_address());
        self.nodes.iter().map(address).collect()
    }

    pub(crate) fn wait_for_links(&self) {
        for node in self.nodes.values() {
            node.wait_for_peers(PATIENCE).expect("all are there");
        }
    }

    pub(crate) fn handle(&self, node: u16) -> Handle {
        self.nodes[&node].handle().expect("a handle")
    }

    /// Decides the next view and tells it to every member that there is.
    pub(crate) fn change(&mut self, members: Vec<Member>) {
        self.view = Arc::new(self.view.next(members, self.dead.clone()).expect("a view"));
        let addresses = self.addresses();
        for (id, node) in &self.nodes {
            if self.view.member(InstanceId(*id)).is_some() {
                node.install_view(&self.view, &addresses).expect("a view that is taken");
            }
        }
    }

    /// Adds instance `id` and waits until it has its part of the directory.
    pub(crate) fn join(&mut self, id: u16) {
        self.join_with(id, &(Arc::new(NothingToFlush) as _));
    }

    /// The same for one that has a redo log.
    pub(crate) fn join_with(&mut self, id: u16, redo: &Arc<dyn RedoLog>) {
        self.lives += 1;
        let mut members = self.view.members().to_vec();
        members.push(member(id, self.lives));
        let next = self.view.next(members, self.dead.clone()).expect("a view");
        self.view = Arc::new(next);
        self.start_node(id, redo);
        let addresses = self.addresses();
        // Links come first: nothing moves to whom nobody reaches.
        let listen = self.nodes[&id].listen_address();
        for (other, address) in &addresses {
            if other.0 != id {
                self.nodes[&other.0].add_peer(InstanceId(id), listen).expect("a new peer");
                self.nodes[&id].add_peer(*other, *address).expect("a new peer");
            }
        }
        self.nodes[&id].wait_for_peers(PATIENCE).expect("all are there");
        for (other, node) in &self.nodes {
            if *other != id {
                node.install_view(&self.view, &addresses).expect("a view that is taken");
            }
        }
        self.settle();
    }

    /// Tells all that instance `id` is about to go, and waits until its part of the directory has
    /// moved away.
    pub(crate) fn begin_leaving(&mut self, id: u16) {
        let mut members = self.view.members().to_vec();
        members.iter_mut().filter(|m| m.id.0 == id).for_each(|m| m.leaving = true);
        self.change(members);
        self.settle();
    }

    /// Instance `id`, which nobody works with, gives up everything and goes.
    pub(crate) fn end_leaving(&mut self, id: u16) {
        self.nodes[&id].leave(PATIENCE).expect("it leaves in order");
        let mut members = self.view.members().to_vec();
        members.retain(|m| m.id.0 != id);
        self.change(members);
        drop(self.nodes.remove(&id));
        self.settle();
    }

    /// Instance `id` is gone without a word; the others have not noticed.
    pub(crate) fn kill(&mut self, id: u16) -> Life {
        drop(self.nodes.remove(&id));
        self.view.member(InstanceId(id)).expect("a member").life()
    }

    /// A view without the dead.
    pub(crate) fn bury(&mut self, dead: Life) {
        let mut members = self.view.members().to_vec();
        members.retain(|m| m.life() != dead);
        self.dead.push(dead);
        self.change(members);
        self.settle();
    }

    /// The redo of the dead is applied: the views to come need not say that it is awaited.
    pub(crate) fn redo_done(&mut self, (id, incarnation): Life) {
        self.dead.retain(|life| *life != (id, incarnation));
        for node in self.nodes.values() {
            node.redo_done(id, incarnation).expect("a node");
        }
    }

    /// Waits until every partition is in use again.
    pub(crate) fn settle(&self) {
        wait_for("all partitions", || {
            self.nodes.keys().all(|id| self.stat(*id).is_some_and(|stat| stat.loading == 0))
        });
    }

    /// What instance `id` says of itself.
    pub(crate) fn stat(&self, id: u16) -> Option<InstanceStat> {
        self.nodes[&id].instance_stat(InstanceId(id), Duration::from_secs(10)).ok()
    }

    /// The first block, of those from `from` on, that instance `id` masters.
    pub(crate) fn block_of(&self, id: u16, from: u32, tag: fn(u32) -> BufferTag) -> u32 {
        let is_its = |block: &u32| self.view.master(&tag(*block)) == InstanceId(id);
        (from..).find(is_its).expect("every instance masters some")
    }

    pub(crate) fn flush(&self) {
        for node in self.nodes.values() {
            node.flush().expect("written back");
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        relation_path(self.folder.path())
    }
}
