//! A node as the membership layer and the tools see it: views, the lease, leaving, what is known.

use super::{
    error::NodeError,
    node::Node,
    shards::{self, Answer, Control, Running},
};
use crate::view::View;
use pagewire_protocol::{BufferTag, Incarnation, InstanceId, InstanceStat, PageStat, Stat};
use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

impl Node {
    /// The view that was put in force last.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The membership layer has decided `view`: every shard puts it in force. `addresses` are those of
    /// the first shards of members that are new to this instance; others may be among them. A view
    /// that is not newer than the present one changes nothing.
    ///
    /// # Errors
    /// [`NodeError::TooManyPeers`], [`NodeError::Ports`], [`NodeError::Transport`] for a member that
    /// cannot be a peer; [`NodeError::Stopped`], [`NodeError::Panicked`].
    pub fn install_view(
        &self,
        view: &Arc<View>,
        addresses: &[(InstanceId, SocketAddr)],
    ) -> Result<(), NodeError> {
        // All of them before any shard hears of the view: it is in force in all or in none.
        let of_shard = |number| {
            let of_peer = |&(id, first): &(InstanceId, SocketAddr)| {
                shards::address(first, number).map(|address| (id, address))
            };
            addresses.iter().map(of_peer).collect::<Result<Vec<_>, _>>()
        };
        let of_shards: Vec<_> =
            self.shards.iter().zip(0..).map(|(_, n)| of_shard(n)).collect::<Result<_, _>>()?;
        // The first one before the others, as it is the one for invalidations: no shard may use a view
        // that this one does not tell when it acknowledges, or has not reset its ring for.
        let mut asked = Vec::with_capacity(self.shards.len());
        for ((shard, addresses), number) in self.shards.iter().zip(of_shards).zip(0..) {
            let answer = shard.ask(|reply| Control::View(Arc::clone(view), addresses, reply))?;
            if number == 0 {
                answer.wait()??;
            } else {
                asked.push(answer);
            }
        }
        for answer in asked {
            answer.wait()??;
        }
        let mut known = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if view.epoch() > known.epoch() {
            *known = Arc::clone(view);
        }
        Ok(())
    }

    /// This instance may no longer act: no page is served any more, not even one that is pinned, and
    /// nothing more is written. It takes a new start, as a new incarnation, to come back.
    ///
    /// # Errors
    /// [`NodeError::Stopped`], [`NodeError::Panicked`]; the lease is over all the same.
    pub fn end_lease(&self) -> Result<(), NodeError> {
        self.shards.iter().for_each(|shard| shard.arena.end_lease());
        self.ask(Control::LeaseLost).map(drop)
    }

    /// All redo of a life that has ended is applied.
    ///
    /// To be told only when every member has put a view without that life in force: with it readers of
    /// invalidations reset, as that life may have published what it changed to some members only.
    ///
    /// # Errors
    /// [`NodeError::Stopped`], [`NodeError::Panicked`].
    pub fn redo_done(
        &self,
        instance: InstanceId,
        incarnation: Incarnation,
    ) -> Result<(), NodeError> {
        self.ask(|reply| Control::RedoDone(instance, incarnation, reply)).map(drop)
    }

    /// Gives up everything, where the view has this instance as leaving: its pages, its past images,
    /// its part of the directory. Afterwards nobody misses it. Threads must not ask for pages
    /// meanwhile.
    ///
    /// # Errors
    /// [`NodeError::NotLeft`] after `limit`; [`NodeError::Stopped`], [`NodeError::Panicked`].
    pub fn leave(&self, limit: Duration) -> Result<(), NodeError> {
        let deadline = Instant::now() + limit;
        let asked: Vec<_> =
            self.shards.iter().map(|shard| shard.ask(Control::Leave)).collect::<Result<_, _>>()?;
        for answer in asked {
            let late = || NodeError::NotLeft { limit_s: limit.as_secs() };
            answer.wait_until(deadline)?.ok_or_else(late)?;
        }
        Ok(())
    }

    /// What the master of page `tag` says of it, and who that is.
    ///
    /// # Errors
    /// [`NodeError::NoAnswer`] after `limit`; [`NodeError::Stopped`], [`NodeError::Panicked`].
    pub fn page_stat(
        &self,
        tag: BufferTag,
        limit: Duration,
    ) -> Result<(InstanceId, PageStat), NodeError> {
        let instance = self.view().master(&tag);
        let shard = &self.shards[usize::from(tag.shard(self.shard_count()))];
        let answer = shard.ask(|reply| Control::StatPage(tag, reply))?;
        match answer.wait_until(Instant::now() + limit)? {
            Some((master, Stat::Page(stat))) => Ok((master, stat)),
            _ => Err(no_answer(instance, limit)),
        }
    }

    /// Partitions, most of any shard, that this instance masters and that cannot be used yet: what the
    /// other members have of them is still being collected.
    ///
    /// # Errors
    /// [`NodeError::Stopped`], [`NodeError::Panicked`].
    pub fn partitions_loading(&self) -> Result<usize, NodeError> {
        Ok(self.ask(Control::Loading)?.into_iter().max().unwrap_or(0))
    }

    /// What instance `of` counts, in all its shards together.
    ///
    /// # Errors
    /// As [`Node::page_stat`].
    pub fn instance_stat(
        &self,
        of: InstanceId,
        limit: Duration,
    ) -> Result<InstanceStat, NodeError> {
        // An instance that has ended says so; one that does not answer is told as such.
        self.ask(Control::Status)?;
        let stat = self.instance_stats(&[of], limit).pop().flatten();
        stat.ok_or_else(|| no_answer(of, limit))
    }

    /// The same of many at once; `None` for those that have not answered after `limit`.
    #[must_use]
    pub fn instance_stats(&self, of: &[InstanceId], limit: Duration) -> Vec<Option<InstanceStat>> {
        let deadline = Instant::now() + limit;
        let ask = |of: &InstanceId| -> Result<Vec<_>, NodeError> {
            let ask = |shard| Running::ask(shard, |reply| Control::StatInstance(*of, reply));
            self.shards.iter().map(ask).collect()
        };
        let asked: Vec<_> = of.iter().map(ask).collect();
        let sum = |answers: Result<Vec<Answer<'_, (InstanceId, Stat)>>, NodeError>| {
            let mut sum = InstanceStat::default();
            for answer in answers.ok()? {
                let Ok(Some((_, Stat::Instance(stat)))) = answer.wait_until(deadline) else {
                    return None;
                };
                // Every shard has all partitions, with the entries of its own pages.
                sum.partitions = stat.partitions;
                sum.loading = sum.loading.max(stat.loading);
                sum.entries += stat.entries;
                sum.held_shared += stat.held_shared;
                sum.held_exclusive += stat.held_exclusive;
                sum.dirty += stat.dirty;
                sum.past_images += stat.past_images;
                sum.requests += stat.requests;
            }
            Some(sum)
        };
        asked.into_iter().map(sum).collect()
    }

    fn shard_count(&self) -> u16 {
        u16::try_from(self.shards.len()).unwrap_or(u16::MAX)
    }
}

fn no_answer(instance: InstanceId, limit: Duration) -> NodeError {
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    NodeError::NoAnswer { instance, limit_ms }
}
