//! What the demo prints: one table, or one JSON object.
//!
//! The last line of the table (`verdict` in JSON) is VERIFIED, NOT VERIFIED (exit status 1), or
//! NOTHING TO MOVE: fewer than two pages have room for an account (exit status 0).
//!
//! Invariants: pure; counts are sums over the instances, percentiles are of all instances' grants
//! together.

use super::change::{self, Change};
use crate::{
    agent::lines::{LinkCounts, Report},
    grd::GrantPath,
    latency::{GrantLatencies, GrantSummary},
    ledger::verify::Verification,
};
use serde::Serialize;
use std::{fmt::Write, time::Duration};

/// Grants by the way they came.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Grants {
    /// Held already.
    pub local: GrantSummary,
    /// From the master.
    pub two_way: GrantSummary,
    /// From an owner that is not the master.
    pub three_way: GrantSummary,
    /// Read from storage.
    pub storage: GrantSummary,
}

/// What was run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Setting {
    /// Instances.
    pub nodes: u16,
    /// What was to carry the pages; told with what did.
    #[serde(skip)]
    pub asked: &'static str,
    /// Pages of the relation.
    pub pages: u32,
    /// Accounts on them.
    pub accounts: u64,
    /// Workers of each instance.
    pub threads: u32,
    /// Seed of the workers' choices.
    pub seed: u64,
    /// Seconds asked for.
    pub seconds: u64,
}

/// What carried the pages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TransportReport {
    /// What was asked for: auto, verbs or tcp.
    pub asked: &'static str,
    /// What the links were on in the end.
    #[serde(flatten)]
    pub links: LinkCounts,
}

impl TransportReport {
    fn name(&self) -> &'static str {
        match (self.links.verbs, self.links.tcp) {
            (0, 0) => "links that are down",
            (0, _) => "tcp",
            (_, 0) => "verbs",
            _ => "verbs and tcp",
        }
    }

    /// Why links are, or were, on TCP; empty where none was, or nothing else was asked for.
    fn reasons(&self) -> String {
        let told: Vec<_> = self
            .links
            .tcp_reasons
            .iter()
            .map(|(name, count)| format!("{name} x {count}"))
            .collect();
        told.join(", ")
    }
}

/// What the run proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Money moved between pages, and all of it is accounted for.
    Verified,
    /// The files are as they should be, but there are fewer than [`ACCOUNTS_MIN`] accounts: no money
    /// could move, so nothing is proved of moving pages.
    NothingToMove,
    /// Something is wrong.
    NotVerified,
}

/// Fewest accounts between which money can move.
pub const ACCOUNTS_MIN: u64 = 2;

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemoReport {
    /// What was run.
    #[serde(flatten)]
    pub setting: Setting,
    /// What the links were on.
    pub transport: TransportReport,
    /// Seconds between start and stop of the workers.
    pub elapsed_s: f64,
    /// Finished transfers.
    pub transfers: u64,
    /// Finished audits.
    pub audits: u64,
    /// Reads of read-only pages.
    pub reads: u64,
    /// Transfers a second.
    pub transfers_per_s: f64,
    /// Audits a second.
    pub audits_per_s: f64,
    /// Audits whose sum was wrong.
    pub audit_failures: u64,
    /// Invalidations that were published.
    pub invalidations: u64,
    /// Times that a cache was used which an invalidation should have cleared.
    pub stale_uses: u64,
    /// True when the verifier found nothing wrong.
    pub verified: bool,
    /// What that proves.
    pub verdict: Verdict,
    /// Money in all accounts at the start.
    pub total_before: i64,
    /// Money in all accounts at the end.
    pub total_after: i64,
    /// Breaks in the chains of versions.
    pub lost_updates: u64,
    /// Pages whose checksum is wrong.
    pub bad_checksums: u64,
    /// Grants by the way they came.
    pub grants: Grants,
    /// Pages sent from instance to instance.
    pub pages_shipped: u64,
    /// Bytes of those messages.
    pub bytes_shipped: u64,
    /// The longest that any worker waited for a page while no member came or went, in milliseconds.
    pub longest_request_ms: f64,
    /// Members that came or went.
    pub changes: Vec<Change>,
    /// What the verifier found wrong, in words.
    pub problems: Vec<String>,
}

impl DemoReport {
    /// Adds up what the instances and the verifier reported.
    #[must_use]
    pub fn new(
        setting: Setting,
        elapsed: Duration,
        reports: &[Report],
        found: &Verification,
    ) -> Self {
        let sum = |field: fn(&Report) -> u64| reports.iter().map(field).sum::<u64>();
        let mut latencies = GrantLatencies::default();
        let mut links = LinkCounts::default();
        for report in reports {
            latencies.add_wire(&report.grants);
            links.add(&report.links);
        }
        let (transfers, audits) = (sum(|r| r.transfers), sum(|r| r.audits));
        let audit_failures = sum(|r| r.audit_failures);
        let stale_uses = sum(|r| r.stale_uses);
        let verdict = match found.verified && audit_failures == 0 && stale_uses == 0 {
            false => Verdict::NotVerified,
            true if setting.accounts < ACCOUNTS_MIN => Verdict::NothingToMove,
            true => Verdict::Verified,
        };
        let elapsed_s = elapsed.as_secs_f64();
        // Counts stay far below 2^53, where f64 is exact.
        let rate = |count: u64| if elapsed_s > 0.0 { count as f64 / elapsed_s } else { 0.0 };
        Self {
            setting,
            transport: TransportReport { asked: setting.asked, links },
            elapsed_s,
            transfers,
            audits,
            reads: sum(|r| r.reads),
            transfers_per_s: rate(transfers),
            audits_per_s: rate(audits),
            audit_failures,
            invalidations: sum(|r| r.invalidations),
            stale_uses,
            verified: found.verified,
            verdict,
            total_before: found.total_before,
            total_after: found.total_after,
            lost_updates: found.lost_updates,
            bad_checksums: found.bad_checksums,
            grants: Grants {
                local: latencies.summary(GrantPath::Local),
                two_way: latencies.summary(GrantPath::TwoWay),
                three_way: latencies.summary(GrantPath::ThreeWay),
                storage: latencies.summary(GrantPath::Storage),
            },
            pages_shipped: sum(|r| r.pages_shipped),
            bytes_shipped: sum(|r| r.bytes_shipped),
            longest_request_ms: 0.0,
            changes: Vec::new(),
            problems: found.problems.clone(),
        }
    }

    /// With the members that came or went, and the longest wait for a page while none did.
    #[must_use]
    pub fn with_changes(self, changes: Vec<Change>, longest: Duration) -> Self {
        Self { changes, longest_request_ms: change::ms(longest), ..self }
    }

    /// True when nothing is wrong. A relation between whose pages no money can move passes, too:
    /// any number of pages is allowed, and these came back unharmed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdict != Verdict::NotVerified
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_table(&mut out);
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let Setting { nodes, pages, accounts, threads, seed, .. } = self.setting;
        let transport = self.transport.name();
        writeln!(
            out,
            "{nodes} instances x {threads} workers over {transport}, {} pages with {} accounts, \
             {:.1} s, seed {seed}",
            grouped(u64::from(pages)),
            grouped(accounts),
            self.elapsed_s
        )?;
        let rate = |per_s: f64| format!("{per_s:.0}/s");
        writeln!(out)?;
        for (label, count, per_s) in [
            ("transfers", self.transfers, rate(self.transfers_per_s)),
            ("audits", self.audits, rate(self.audits_per_s)),
            ("reads", self.reads, String::new()),
            ("invalidations", self.invalidations, String::new()),
        ] {
            writeln!(
                out,
                "{}",
                format!("{label:<14}{:>14}{per_s:>12}", grouped(count)).trim_end()
            )?;
        }
        let mebibytes = self.bytes_shipped as f64 / f64::from(1 << 20);
        let (label, pages) = ("pages shipped", grouped(self.pages_shipped));
        writeln!(out, "{label:<14}{pages:>14}{mebibytes:>8.1} MiB")?;
        self.write_links(out)?;
        self.write_changes(out)?;
        writeln!(out)?;
        let columns = ["count", "p50 us", "p99 us", "p99.9 us", "max us"];
        let [count, p50, p99, p999, max] = columns;
        writeln!(out, "{:<14}{count:>14}{p50:>12}{p99:>12}{p999:>12}{max:>12}", "grants")?;
        for kind in GrantPath::ALL {
            let grant = self.grant(kind);
            write!(out, "{:<14}{:>14}", kind.label(), grouped(grant.count))?;
            for value in [grant.p50_us, grant.p99_us, grant.p999_us, grant.max_us] {
                match grant.count {
                    0 => write!(out, "{:>12}", "-")?,
                    _ => write!(out, "{value:>12.2}")?,
                }
            }
            writeln!(out)?;
        }
        writeln!(out)?;
        writeln!(out, "{}", self.verdict_line())?;
        self.problems.iter().try_for_each(|problem| writeln!(out, "  {problem}"))
    }

    /// Links by what they are on, the count where the other counts are.
    fn write_links(&self, out: &mut String) -> std::fmt::Result {
        let LinkCounts { verbs, tcp, down, falls_to_tcp, .. } = self.transport.links;
        let rows = [
            ("verbs links", verbs, true),
            ("TCP links", tcp, true),
            ("links down", down, down > 0),
            ("falls to TCP", falls_to_tcp, falls_to_tcp > 0),
        ];
        for (label, count, _) in rows.iter().filter(|(_, _, is_told)| *is_told) {
            writeln!(out, "{label:<14}{:>14}", grouped(*count))?;
        }
        match self.transport.reasons() {
            reasons if reasons.is_empty() => Ok(()),
            reasons => writeln!(out, "why TCP       {reasons}"),
        }
    }

    fn grant(&self, kind: GrantPath) -> &GrantSummary {
        match kind {
            GrantPath::Local => &self.grants.local,
            GrantPath::TwoWay => &self.grants.two_way,
            GrantPath::ThreeWay => &self.grants.three_way,
            GrantPath::Storage => &self.grants.storage,
        }
    }

    fn verdict_line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Verified => "VERIFIED",
            Verdict::NotVerified => "NOT VERIFIED",
            Verdict::NothingToMove => return self.nothing_to_move(),
        };
        format!(
            "{verdict}: total {} before, {} after; {} lost updates, {} bad checksums, \
             {} failed audits, {} stale uses",
            self.total_before,
            self.total_after,
            self.lost_updates,
            self.bad_checksums,
            self.audit_failures,
            self.stale_uses
        )
    }

    fn write_changes(&self, out: &mut String) -> std::fmt::Result {
        if self.changes.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        self.changes.iter().try_for_each(|change| writeln!(out, "{change}"))?;
        writeln!(out, "longest request otherwise {:.1} ms", self.longest_request_ms)
    }

    fn nothing_to_move(&self) -> String {
        let Setting { pages, accounts, .. } = self.setting;
        format!(
            "NOTHING TO MOVE: accounts on {accounts} of {pages} pages, money moves between at least \
             {ACCOUNTS_MIN}: give --pages a file with two pages or more that have free space; \
             these are unharmed: {} bad checksums",
            self.bad_checksums
        )
    }
}

/// A number with its thousands set apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::change::What;
    use pagewire_protocol::InstanceId;

    fn report(verified: bool) -> DemoReport {
        let setting = Setting {
            nodes: 3,
            asked: "auto",
            pages: 600,
            accounts: 545,
            threads: 2,
            seed: 42,
            seconds: 5,
        };
        let mut latencies = GrantLatencies::default();
        for nanoseconds in [10_000, 20_000, 30_000] {
            latencies.record(GrantPath::TwoWay, nanoseconds);
        }
        latencies.local_untimed = 1_000_000;
        let one = Report {
            transfers: 5000,
            audits: 100,
            pages_shipped: 128,
            bytes_shipped: 1 << 20,
            grants: latencies.to_wire(),
            links: LinkCounts {
                verbs: 2,
                tcp: 1,
                falls_to_tcp: 1,
                tcp_reasons: [("failed".to_owned(), 1)].into(),
                ..LinkCounts::default()
            },
            ..Report::default()
        };
        let two = Report { audits: 150, audit_failures: u64::from(!verified), ..one.clone() };
        let found = Verification {
            verified,
            total_before: 545_000,
            total_after: 545_000,
            problems: if verified { vec![] } else { vec!["block 3 is wrong".to_owned()] },
            ..Verification::default()
        };
        DemoReport::new(setting, Duration::from_secs(5), &[one, two], &found)
    }

    #[test]
    fn reports_of_two_instances_add_up() {
        let report = report(true);
        assert_eq!((report.transfers, report.audits, report.pages_shipped), (10_000, 250, 256));
        assert!((report.transfers_per_s - 2000.0).abs() < 1e-9);
        assert_eq!((report.grants.two_way.count, report.grants.local.count), (6, 2_000_000));
        assert!((20.0..20.7).contains(&report.grants.two_way.p50_us));
        assert!(report.passed() && !super::tests::report(false).passed());
    }

    #[test]
    fn a_stale_use_fails_the_run() {
        let found = Verification { verified: true, ..Verification::default() };
        let one = Report { invalidations: 7, stale_uses: 1, ..Report::default() };
        let setting = report(true).setting;
        let report = DemoReport::new(setting, Duration::from_secs(1), &[one], &found);
        assert!(!report.passed() && (report.invalidations, report.stale_uses) == (7, 1));
        let table = report.table();
        assert!(table.contains("NOT VERIFIED") && table.contains("1 stale uses"), "{table}");
    }

    #[test]
    fn what_the_links_were_on_is_told_with_the_reasons() {
        let report = report(true);
        let json = serde_json::to_value(&report).expect("JSON");
        let expected = serde_json::json!({
            "asked": "auto", "verbs": 4, "tcp": 2, "down": 0, "falls_to_tcp": 2,
            "tcp_reasons": {"failed": 2},
        });
        assert_eq!(json["transport"], expected);
        let table = report.table();
        for line in [
            "verbs links                4",
            "TCP links                  2",
            "falls to TCP               2",
            "why TCP       failed x 2",
        ] {
            assert!(table.lines().any(|found| found == line), "'{line}' in: {table}");
        }
        assert!(table.contains(" over verbs and tcp, "), "{table}");
    }

    #[test]
    fn the_json_has_the_agreed_fields() {
        let json = serde_json::to_value(report(true)).expect("JSON");
        for field in [
            "nodes",
            "transport",
            "transfers",
            "audits",
            "verified",
            "verdict",
            "total_before",
            "total_after",
            "lost_updates",
            "bad_checksums",
            "pages_shipped",
            "seconds",
            "seed",
            "bytes_shipped",
            "transfers_per_s",
            "audits_per_s",
            "audit_failures",
            "invalidations",
            "stale_uses",
            "problems",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
        for kind in ["local", "two_way", "three_way", "storage"] {
            for field in ["count", "p50_us", "p99_us", "p999_us", "max_us"] {
                assert!(json["grants"][kind][field].is_number(), "{kind} {field}");
            }
        }
    }

    #[test]
    fn the_table_is_aligned_and_ends_in_the_verdict() {
        let table = report(true).table();
        let lines: Vec<_> = table.lines().collect();
        let grants = lines.iter().position(|line| line.starts_with("grants")).expect("a heading");
        let width = lines[grants].len();
        assert!(lines[grants..=grants + 4].iter().all(|line| line.len() == width), "{table}");
        assert!(table.contains("transfers             10,000      2000/s"), "{table}");
        assert!(table.contains("pages shipped            256     2.0 MiB"), "{table}");
        assert!(table.contains("\nVERIFIED: total 545000 before, 545000 after"), "{table}");
        let damaged = report(false).table();
        assert!(damaged.contains("\nNOT VERIFIED:"), "{damaged}");
        assert!(damaged.ends_with("  block 3 is wrong\n"), "{damaged}");
    }

    #[test]
    fn a_run_in_which_nothing_could_move_does_not_call_itself_verified() {
        let mut setting = report(true).setting;
        (setting.pages, setting.accounts) = (3, 1);
        let sound = Verification { verified: true, ..Verification::default() };
        let report = |found| DemoReport::new(setting, Duration::from_secs(1), &[], found);
        let table = report(&sound).table();
        assert!(table.contains("\nNOTHING TO MOVE: accounts on 1 of 3 pages"), "{table}");
        assert!(!table.contains("VERIFIED") && report(&sound).passed(), "{table}");
        let json = serde_json::to_value(report(&sound)).expect("JSON");
        assert_eq!(json["verdict"], "nothing_to_move");
        let damaged = Verification { bad_checksums: 1, ..Verification::default() };
        assert!(report(&damaged).table().contains("\nNOT VERIFIED"), "damage comes first");
        setting.accounts = ACCOUNTS_MIN;
        let moved = DemoReport::new(setting, Duration::from_secs(1), &[], &sound);
        assert_eq!(moved.verdict, Verdict::Verified);
    }

    #[test]
    fn members_that_came_and_went_stand_in_the_table_and_in_the_json() {
        let plain = report(true);
        assert!(!plain.table().contains("longest request"), "nobody came or went");
        let ms = Duration::from_millis;
        let change = |what| Change::new(what, InstanceId(3), ms(2000), ms(90), ms(20));
        let changes = [What::Join, What::Leave].map(change).to_vec();
        let report = plain.with_changes(changes, ms(15));
        let table = report.table();
        assert!(table.contains("\ninstance 3 joined after 2.0 s, in 90 ms; longest"), "{table}");
        assert!(table.contains("\ninstance 3 left after 2.0 s"), "{table}");
        assert!(table.contains("\nlongest request otherwise 15.0 ms\n"), "{table}");
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["changes"][1]["what"], "leave");
        assert_eq!(json["longest_request_ms"], 15.0);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
