//! A run, from the first instance to the last report.

use super::{
    change::Change,
    child::Fleet,
    error::DemoError,
    members::{Changing, Members, timeline},
    progress::Progress,
    stage::{STEP_TIMEOUT, Stage},
};
use crate::agent::lines::{Command as Order, Event, Report};
use pagewire_protocol::InstanceId;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What came of a run.
pub(super) struct Played {
    /// How long the workers worked.
    pub(super) elapsed: Duration,
    /// What each instance reports, those that left included.
    pub(super) reports: Vec<Report>,
    /// Members that came or went.
    pub(super) changes: Vec<Change>,
    /// The longest wait for a page while none did.
    pub(super) longest_request: Duration,
}

/// Runs the instances.
pub(super) fn play(stage: &Stage<'_>) -> Result<Played, DemoError> {
    let mut fleet = Fleet::new(STEP_TIMEOUT, &stage.cleanup);
    let mut members = Members::first(stage.instances())?;
    for instance in stage.instances() {
        fleet.start(instance, &mut stage.node_command(instance, &members.view)?)?;
    }
    members.listen(&fleet.wait_all("listening")?);
    fleet.tell(&members.peers());
    fleet.wait_all("ready")?;

    fleet.tell(&Order::Start);
    let started = Instant::now();
    let mut progress = Progress::new(started, stage.options.json);
    let whole = Duration::from_secs(stage.options.seconds);
    let mut left = Vec::new();
    let (mut changes, mut longest_request) = (Vec::new(), Duration::ZERO);
    for (at, what) in timeline(stage.options.join, stage.options.leave, whole) {
        watch(&mut fleet, &mut progress, started + at)?;
        longest_request = longest_request.max(progress.take_longest());
        let (fleet, members, progress) = (&mut fleet, &mut members, &mut progress);
        let mut run = Changing { stage, fleet, members, progress, started };
        let (change, report) = run.change(what)?;
        changes.push(change);
        left.extend(report);
    }
    watch(&mut fleet, &mut progress, started + whole)?;
    longest_request = longest_request.max(progress.take_longest());
    fleet.tell(&Order::Stop);
    let elapsed = started.elapsed();
    fleet.wait_all("stopped")?;

    fleet.tell(&Order::Flush);
    fleet.wait_all("flushed")?;
    fleet.tell(&Order::Quit);
    let reports = reports(fleet.wait_all("report")?).into_iter().chain(left).collect();
    fleet.finish()?;
    Ok(Played { elapsed, reports, changes, longest_request })
}

/// Lets the workers work until then.
fn watch(fleet: &mut Fleet, progress: &mut Progress, until: Instant) -> Result<(), DemoError> {
    let left = until.saturating_duration_since(Instant::now());
    let watched = fleet.watch(left, |instance, event| progress.show(instance, event));
    progress.clear();
    Ok(watched?)
}

fn reports(told: BTreeMap<InstanceId, Event>) -> Vec<Report> {
    let report = |event| match event {
        Event::Report(report) => Some(*report),
        _ => None,
    };
    told.into_values().filter_map(report).collect()
}
