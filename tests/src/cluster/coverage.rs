//! Which cells of (state x message x fault) were reached.
//!
//! The state is what the receiver of a message had of the page before it; the fault is the kind that
//! went wrong last in that run, if any did.

use super::{Checked, Cluster, Fault, Place};
use pagewire_node::grd::{EntryView, HoldingView};
use pagewire_protocol::{Epoch, Pcm};
use std::{cell::RefCell, collections::BTreeMap, fmt};

/// Who a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Master,
    Holder,
}

const MASTER_STATES: [&str; 8] = [
    "no entry",
    "storage only",
    "shared",
    "exclusive",
    "converting",
    "loading",
    "repairing",
    "lost",
];
const HOLDER_STATES: [&str; 9] = [
    "nothing",
    "S",
    "S busy",
    "X",
    "X busy",
    "requesting",
    "in transit",
    "releasing",
    "past image",
];
const EPOCHS: [&str; 3] = ["same epoch", "older epoch", "newer epoch"];

type Cell = (Role, &'static str, &'static str, &'static str, Option<Fault>);

/// How often each cell was reached.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    cells: BTreeMap<Cell, u64>,
}

thread_local! {
    static COVERAGE: RefCell<Option<Coverage>> = const { RefCell::new(None) };
}

/// What was reached since this was last called; from now on it is counted.
#[must_use]
pub fn coverage() -> Coverage {
    COVERAGE.with(|it| it.replace(Some(Coverage::default())).unwrap_or_default())
}

/// Message, for whom it is, and its name.
fn kind(message: &Pcm) -> (Role, &'static str) {
    use Role::{Holder, Master};
    match message {
        Pcm::Acquire { .. } => (Master, "ACQUIRE"),
        Pcm::Ship { .. } => (Holder, "SHIP"),
        Pcm::Invalidate { .. } => (Holder, "INVALIDATE"),
        Pcm::Invalidated { .. } => (Holder, "INVALIDATED"),
        Pcm::Claim { .. } => (Master, "CLAIM"),
        Pcm::Claimed { .. } => (Holder, "CLAIMED"),
        Pcm::Release { .. } => (Master, "RELEASE"),
        Pcm::Released { .. } => (Holder, "RELEASED"),
        Pcm::Written { .. } => (Master, "WRITTEN"),
        Pcm::Cancel { .. } => (Master, "CANCEL"),
        Pcm::StatRequest { .. } => (Master, "STAT_REQUEST"),
        Pcm::StatReply(_) => (Holder, "STAT_REPLY"),
        Pcm::Nak { .. } => (Holder, "NAK"),
        Pcm::NodeClear { .. } => (Holder, "NODE_CLEAR"),
        Pcm::Discard { .. } => (Holder, "DISCARD"),
        Pcm::Discarded { .. } => (Master, "DISCARDED"),
        Pcm::WriteRequest { .. } => (Master, "WRITE_REQUEST"),
        Pcm::Write { .. } => (Holder, "WRITE"),
        Pcm::Refuse { .. } => (Master, "REFUSE"),
        Pcm::Query { .. } => (Holder, "QUERY"),
        Pcm::GuideWanted => (Holder, "GUIDE_WANTED"),
        Pcm::Report { .. } => (Master, "REPORT"),
        Pcm::Assign { .. } => (Holder, "ASSIGN"),
        Pcm::Assigned { .. } => (Master, "ASSIGNED"),
        Pcm::Response { .. } => (Holder, "RESPONSE"),
    }
}

const MASTER_MESSAGES: [&str; 10] = [
    "ACQUIRE",
    "CLAIM",
    "RELEASE",
    "WRITTEN",
    "CANCEL",
    "DISCARDED",
    "WRITE_REQUEST",
    "REFUSE",
    "REPORT",
    "ASSIGNED",
];
const HOLDER_MESSAGES: [&str; 12] = [
    "SHIP",
    "INVALIDATE",
    "INVALIDATED",
    "CLAIMED",
    "RELEASED",
    "NAK",
    "DISCARD",
    "WRITE",
    "QUERY",
    "GUIDE_WANTED",
    "ASSIGN",
    "RESPONSE",
];

fn master_state(loading: bool, entry: Option<&EntryView>) -> &'static str {
    match entry {
        _ if loading => "loading",
        None => "no entry",
        Some(entry) if entry.repairing => "repairing",
        Some(entry) if entry.lost => "lost",
        Some(entry) if entry.converting => "converting",
        Some(entry) if entry.exclusive => "exclusive",
        Some(entry) if entry.holders.is_empty() => "storage only",
        Some(_) => "shared",
    }
}

/// Why no schedule reaches the cell, if none can: a lane is in order, what waits for all reports has
/// them all, and a conversion ends with its claim.
fn impossible(role: Role, state: &str, message: &str, epoch: &str) -> Option<&'static str> {
    const NOT_LOADED: &str = "a new master says nothing of a page before this instance has told all \
                              it has, and it tells that when it has the view";
    let (same, newer) = (epoch == EPOCHS[0], epoch == EPOCHS[2]);
    let holds_nothing = matches!(state, "nothing" | "requesting" | "in transit" | "past image");
    match (role, message) {
        // The one goes to whoever said something, the other to who has not told yet.
        (Role::Holder, "NAK" | "GUIDE_WANTED") => None,
        (Role::Holder, _) if newer => Some(NOT_LOADED),
        (Role::Master, "CLAIM" | "REFUSE" | "REPORT" | "ASSIGNED" | "DISCARDED") if newer => {
            Some("it answers a master of that epoch, which has the view")
        }
        _ if !same => None,
        (Role::Master, "CLAIM") if !matches!(state, "converting" | "repairing" | "lost") => {
            Some("a conversion ends with its claim; a repair waits for the report behind it")
        }
        (Role::Master, "REPORT" | "ASSIGNED") if state != "repairing" => {
            Some("a repair waits for every one")
        }
        (Role::Master, "REFUSE") if state == "loading" => {
            Some("nothing has been granted in this epoch")
        }
        (Role::Master, "DISCARDED") if state == "loading" => {
            Some("nothing has been discarded in this epoch")
        }
        (Role::Master, "WRITE_REQUEST") if state == "no entry" => Some(
            "who keeps a past image is listed until its DISCARDED, which is behind it on its lane",
        ),
        (Role::Master, "WRITTEN") if state == "lost" => Some("nobody holds what is lost"),
        (Role::Holder, "INVALIDATE") if holds_nothing || state.starts_with('X') => {
            Some("it goes to readers; RELEASED and SHIP come before it on its lane")
        }
        (Role::Holder, "SHIP") if matches!(state, "nothing" | "in transit") => Some(
            "it goes to the owner or the base; RELEASED and DISCARD come before it on its lane",
        ),
        (Role::Holder, "WRITE") if matches!(state, "nothing" | "in transit") => {
            Some("it goes to the owner or the base; RELEASED and SHIP come behind it on its lane")
        }
        (Role::Holder, "RELEASED") if state == "in transit" => {
            Some("what is shipped was asked for behind it on its lane")
        }
        (Role::Holder, "ASSIGN") if holds_nothing && state != "in transit" => {
            Some("it goes to who reported a copy in transit or held S, and keeps it until then")
        }
        _ => None,
    }
}

/// Whether the core's own tests bring the cell about (`node/src/grd/tests/cells.rs`), where schedules
/// do so hardly ever: what is of another epoch meets every state, and so does what comes when its
/// request, its repair or its grant is long over, because its lane has lagged behind.
fn is_scripted(role: Role, state: &str, message: &str, epoch: &str) -> bool {
    match (role, message) {
        _ if epoch != EPOCHS[0] => true,
        (Role::Master, "REFUSE" | "CANCEL" | "DISCARDED") => true,
        (Role::Master, "RELEASE") => state == "storage only",
        (Role::Holder, "INVALIDATED" | "RELEASED" | "CLAIMED" | "NAK" | "RESPONSE") => true,
        _ => false,
    }
}

fn holder_state(holding: Option<&HoldingView>) -> &'static str {
    holding.map_or("nothing", HoldingView::row)
}

impl Cluster {
    /// Notes the cell that this message reaches. One that is held impossible is a failure: either the
    /// core is wrong, or the argument.
    pub(super) fn cover(&self, place: Place, epoch: Epoch, message: &Pcm) -> Checked {
        COVERAGE.with_borrow_mut(|coverage| {
            let Some(coverage) = coverage else { return Ok(()) };
            if matches!(
                message,
                Pcm::NodeClear { .. } | Pcm::StatRequest { .. } | Pcm::StatReply(_)
            ) {
                // About no page's state, whatever the epoch.
                return Ok(());
            }
            let (node, tag) = (&self.nodes[place.node].grd, &self.pages[place.page].tag);
            let (role, message) = kind(message);
            let state = match role {
                Role::Master => {
                    let loading = node.loading().any(|partition| partition == tag.partition());
                    master_state(loading, node.entry(tag).as_ref())
                }
                Role::Holder => holder_state(node.holding(tag).as_ref()),
            };
            let own = node.view().epoch_of(tag);
            let fence = match epoch.cmp(&own) {
                std::cmp::Ordering::Equal => EPOCHS[0],
                std::cmp::Ordering::Less => EPOCHS[1],
                std::cmp::Ordering::Greater => EPOCHS[2],
            };
            *coverage.cells.entry((role, state, message, fence, self.last_fault)).or_default() += 1;
            match impossible(role, state, message, fence) {
                Some(why) => {
                    Err(format!("{message} of the {fence} meets {state} at a {role:?}: {why}"))
                }
                None => Ok(()),
            }
        })
    }
}

impl Coverage {
    /// How many cells were reached that are held impossible.
    #[must_use]
    pub fn contradictions(&self) -> u64 {
        let reached = self.cells.keys().map(|(role, state, message, epoch, _)| {
            u64::from(impossible(*role, state, message, epoch).is_some())
        });
        reached.sum()
    }

    fn faults(&self, role: Role, state: &str, message: &str, epoch: &str) -> (usize, u64) {
        let cells = self.cells.iter();
        let here = cells.filter(|((r, s, m, e, _), _)| {
            *r == role && *s == state && *m == message && *e == epoch
        });
        here.fold((0, 0), |(faults, times), (_, more)| (faults + 1, times + more))
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = [
            (Role::Master, &MASTER_STATES[..], &MASTER_MESSAGES[..]),
            (Role::Holder, &HOLDER_STATES[..], &HOLDER_MESSAGES[..]),
        ];
        let faults = Fault::COUNT + 1;
        writeln!(f, "cells: times reached / kinds of fault (of {faults}) that came last before")?;
        for (role, states, messages) in roles {
            for epoch in EPOCHS {
                writeln!(f, "\n{role:?}, {epoch}")?;
                write!(f, "{:>14}", "")?;
                for state in states {
                    write!(f, "{state:>16}")?;
                }
                writeln!(f)?;
                for message in messages {
                    write!(f, "{message:>14}")?;
                    for state in states {
                        let (faults, times) = self.faults(role, state, message, epoch);
                        let cannot = impossible(role, state, message, epoch).is_some();
                        let cell = match times {
                            0 if cannot => "-".to_owned(),
                            _ if cannot => format!("!! {times}"),
                            _ => format!("{times}/{faults}"),
                        };
                        write!(f, "{cell:>16}")?;
                    }
                    writeln!(f)?;
                }
            }
        }
        let mut reasons: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (role, states, messages) in roles {
            for (epoch, message) in EPOCHS.iter().flat_map(|e| messages.iter().map(move |m| (e, m)))
            {
                for state in states {
                    if let Some(reason) = impossible(role, state, message, epoch) {
                        let cell = format!("{role:?} {message}, {epoch}, {state}");
                        reasons.entry(reason).or_default().push(cell);
                    }
                }
            }
        }
        writeln!(f, "\nimpossible (- above; !! where one was reached nevertheless):")?;
        for (reason, cells) in &reasons {
            writeln!(f, "  {reason}: {}", cells.join("; "))?;
        }
        for (words, scripted) in [
            ("possible, and reached by scripted tests of the core only", true),
            ("possible and never reached", false),
        ] {
            writeln!(f, "\n{words} (state x message):")?;
            for (role, states, messages) in roles {
                for (epoch, message) in
                    EPOCHS.iter().flat_map(|e| messages.iter().map(move |m| (e, m)))
                {
                    let never = |state: &&&str| {
                        self.faults(role, state, message, epoch).1 == 0
                            && impossible(role, state, message, epoch).is_none()
                            && is_scripted(role, state, message, epoch) == scripted
                    };
                    let never: Vec<_> = states.iter().filter(never).copied().collect();
                    if !never.is_empty() {
                        writeln!(f, "  {role:?} {message}, {epoch}: {}", never.join(", "))?;
                    }
                }
            }
        }
        Ok(())
    }
}
