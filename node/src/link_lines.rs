//! What `pagewire node` tells of what messages with its peers are on: verbs, or TCP and why.
//!
//! Pure: what the links are on comes in, lines go out. A line is told once, until it is another.

use crate::runtime::{End, PeerLinks, WhyTcp};
use pagewire_protocol::{InstanceId, LinkKind, TcpReason};
use pagewire_transport::LinkPolicy;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
struct Known {
    reasons: BTreeMap<WhyTcp, u64>,
    /// The reason that was given last.
    why: Option<WhyTcp>,
    told: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct LinkLines {
    policy: LinkPolicy,
    peers: BTreeMap<InstanceId, Known>,
}

impl LinkLines {
    /// Nothing is known yet of any peer of an instance that is configured so.
    #[must_use]
    pub fn new(policy: LinkPolicy) -> Self {
        Self { policy, peers: BTreeMap::new() }
    }

    /// The links are as `links` says: the lines that are news.
    #[must_use]
    pub fn observe(&mut self, links: &[PeerLinks]) -> Vec<String> {
        links.iter().filter_map(|links| self.news(links)).collect()
    }

    fn news(&mut self, links: &PeerLinks) -> Option<String> {
        let known = self.peers.entry(links.peer).or_default();
        for (why, count) in links.all_reasons() {
            let before = known.reasons.insert(why, count).unwrap_or(0);
            if count > before {
                known.why = Some(why);
            }
        }
        let line = line(self.policy, links, known.why)?;
        (known.told.as_ref() != Some(&line)).then(|| {
            known.told = Some(line.clone());
            line
        })
    }
}

fn line(policy: LinkPolicy, links: &PeerLinks, why: Option<WhyTcp>) -> Option<String> {
    let peer = links.peer;
    if links.is_on_verbs() {
        return Some(format!("messages with instance {peer} go over verbs"));
    }
    let configured = WhyTcp { reason: TcpReason::Configured, end: End::This };
    let why = if policy == LinkPolicy::Tcp { configured } else { why? };
    if policy == LinkPolicy::Verbs {
        return Some(format!(
            "no messages with instance {peer}: transport = \"verbs\", which cannot be used: {why}; \
             `pagewire doctor --config FILE` says what to change, or allow TCP with \"auto\""
        ));
    }
    let (on_tcp, all) = (links.count(Some(LinkKind::Tcp)), links.on.len());
    let shards = if on_tcp < all { format!(" ({on_tcp} of {all} shards)") } else { String::new() };
    (on_tcp > 0).then(|| format!("messages with instance {peer} go over TCP{shards}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: InstanceId = InstanceId(7);
    const TCP: Option<LinkKind> = Some(LinkKind::Tcp);
    const VERBS: Option<LinkKind> = Some(LinkKind::Verbs);

    fn links(on: &[Option<LinkKind>], given: &[(WhyTcp, u64)]) -> [PeerLinks; 1] {
        let mut links = PeerLinks::new(PEER, on.len());
        links.on = on.to_vec();
        for (why, count) in given {
            let reasons = match why.end {
                End::This => &mut links.reasons,
                End::Other => &mut links.reasons_theirs,
            };
            reasons[why.reason.index()] = *count;
        }
        [links]
    }

    #[test]
    fn a_move_to_verbs_and_a_fall_with_its_reason_are_told_once_each() {
        let mut lines = LinkLines::new(LinkPolicy::Auto);
        assert!(lines.observe(&links(&[None], &[])).is_empty());
        assert!(lines.observe(&links(&[TCP], &[])).is_empty(), "not decided yet");
        let on_verbs = ["messages with instance 7 go over verbs"];
        assert_eq!(lines.observe(&links(&[VERBS], &[])), on_verbs);
        assert!(lines.observe(&links(&[VERBS], &[])).is_empty());
        let failed = WhyTcp { reason: TcpReason::Failed, end: End::This };
        let told = lines.observe(&links(&[TCP], &[(failed, 1)]));
        assert_eq!(
            told,
            ["messages with instance 7 go over TCP: failed at this end (the queue pairs failed; \
              the log says how)"]
        );
        assert!(lines.observe(&links(&[TCP], &[(failed, 2)])).is_empty(), "the same again");
        assert_eq!(lines.observe(&links(&[VERBS], &[(failed, 2)])), on_verbs);
        let setup = WhyTcp { reason: TcpReason::Setup, end: End::Other };
        let told = lines.observe(&links(&[TCP], &[(failed, 2), (setup, 1)]));
        assert!(told[0].contains("setup at the other end"), "{told:?}");
    }

    #[test]
    fn shards_that_differ_are_counted() {
        let why = WhyTcp { reason: TcpReason::NoPort, end: End::Other };
        let told = LinkLines::new(LinkPolicy::Auto).observe(&links(&[VERBS, TCP], &[(why, 1)]));
        assert!(told[0].contains("TCP (1 of 2 shards): no-port at the other end"), "{told:?}");
    }

    #[test]
    fn what_the_configuration_says_is_the_reason_or_what_to_change() {
        let mut lines = LinkLines::new(LinkPolicy::Tcp);
        let told = lines.observe(&links(&[TCP], &[]));
        assert!(told[0].ends_with("TCP: configured at this end (the configuration says tcp)"));
        let mut lines = LinkLines::new(LinkPolicy::Verbs);
        assert!(lines.observe(&links(&[TCP], &[])).is_empty(), "not decided yet");
        let why = WhyTcp { reason: TcpReason::NoDevice, end: End::Other };
        let told = lines.observe(&links(&[None], &[(why, 1)]));
        for words in ["no messages with instance 7", "no-device at the other end", "\"auto\""] {
            assert!(told[0].contains(words), "'{words}' in {told:?}");
        }
        assert!(lines.observe(&links(&[TCP], &[(why, 2)])).is_empty(), "at every try");
    }
}
