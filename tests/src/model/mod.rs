//! The directory core of one page, explored completely: every order in which what is under way can
//! happen.
//!
//! Three instances, a few requests each, and one crash at any moment. Bounded as follows, so that it
//! ends: one page; each lane between two instances is first in first out and loses nothing (the
//! session's part, which the simulator tests); a guard is let go as soon as it is granted, a writer
//! having made one version; pins are drained, storage and logs answer at once; the membership decides
//! one view after the crash, which each survivor hears of at any time, and after which the lowest
//! survivor that has heard of it may begin redo at any time; nobody is asked to tell the page's partition
//! before others (PCM_GUIDE_WANTED is lost), as nothing is held of these.
//!
//! Depth first over the states that differ in anything that can matter: cores, lanes, pages, logs,
//! and what is still to come. In every state nobody has a page that he must not have, and every
//! guard sees what was last committed; where nothing is left to happen, everything is at rest.

mod actions;
mod checks;
mod effects;
mod world;

pub use world::Bounds;

use actions::Action;
use std::collections::HashSet;
use world::World;

/// What was explored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Explored {
    /// Different states.
    pub states: u64,
    /// Steps from one to another.
    pub steps: u64,
    /// States in which nothing is left to happen.
    pub ends: u64,
    /// Steps to the state that is farthest.
    pub depth: u64,
    /// Not everything was explored: there are more states than the limit.
    pub cut: bool,
}

/// Explores every state that `bounds` allow, but no more than `limit`.
///
/// # Errors
/// What is wrong, and the actions that lead there.
pub fn explore(bounds: &Bounds, limit: u64) -> Result<Explored, String> {
    let mut explored = Explored::default();
    let mut seen = HashSet::new();
    let first = World::new(bounds);
    let mut path = vec![Open { actions: first.actions(), world: first, by: None }];
    while let Some(open) = path.last_mut() {
        let Some(action) = open.actions.pop() else {
            path.pop();
            continue;
        };
        explored.steps += 1;
        let mut world = open.world.clone();
        let by = Some(action);
        if let Err(what) = guarded(|| world.act(action).and_then(|()| world.check())) {
            return Err(tell(&what, &path, action));
        }
        if !seen.insert(world.fingerprint()) {
            continue;
        }
        explored.states += 1;
        let actions = world.actions();
        if actions.is_empty() {
            explored.ends += 1;
            world.check_end().map_err(|what| tell(&what, &path, action))?;
            continue;
        }
        if explored.states >= limit {
            explored.cut = true;
            return Ok(explored);
        }
        path.push(Open { actions, world, by });
        explored.depth = explored.depth.max(path.len() as u64);
    }
    Ok(explored)
}

/// A state on the present path, and what can happen in it that was not tried yet.
#[derive(Debug)]
struct Open {
    world: World,
    actions: Vec<Action>,
    /// What led to it.
    by: Option<Action>,
}

/// A panic in the core is a failure like any other.
fn guarded(act: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(act))
        .unwrap_or_else(|panic| Err(format!("panic: {:?}", panic.downcast_ref::<String>())))
}

fn tell(what: &str, path: &[Open], last: Action) -> String {
    let steps: Vec<_> = path.iter().filter_map(|open| open.by).chain([last]).collect();
    let steps: Vec<_> = steps.iter().map(|action| format!("{action:?}")).collect();
    format!("{what}\nafter:\n  {}", steps.join("\n  "))
}
