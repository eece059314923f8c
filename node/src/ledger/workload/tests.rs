//! The workers on pages in memory, shared by threads in place of instances.

use super::*;
use crate::ledger::{relation, verify};
use pagewire_protocol::{Incarnation, PageSize};
use pagewire_transport::arena::LeaseExpired;
use std::{
    collections::HashMap,
    fs,
    ops::Deref,
    path::PathBuf,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
};

/// Pages in memory; clones see the same pages, each clone with the clock of its own instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryPages {
    pages: Arc<HashMap<u32, RwLock<Vec<u8>>>>,
    clock: Arc<AtomicU64>,
    /// When set, the page that cannot be had.
    pub(crate) refused: Option<u32>,
}

impl MemoryPages {
    pub(crate) fn load(manifest: &Manifest, path: &Path) -> Self {
        let bytes = fs::read(path).expect("a prepared relation");
        let pages = bytes.chunks(manifest.page_size().bytes());
        let pages = (manifest.first_block..).zip(pages.map(|page| RwLock::new(page.to_vec())));
        Self { pages: Arc::new(pages.collect()), ..Self::default() }
    }

    /// Another instance on the same pages.
    pub(crate) fn another_instance(&self) -> Self {
        Self { clock: Arc::default(), ..self.clone() }
    }

    /// Writes all pages back, with checksums.
    pub(crate) fn store(&self, manifest: &Manifest, path: &Path) {
        let mut bytes = Vec::new();
        for block in manifest.first_block..manifest.first_block + manifest.page_count {
            let mut page = self.pages[&block].read().expect("not poisoned").clone();
            if !page::is_new(&page) {
                let checksum = page::checksum(&page, block);
                page::set_checksum(&mut page, checksum);
            }
            bytes.extend(page);
        }
        fs::write(path, bytes).expect("written");
    }

    fn see(&self, version: u64) {
        self.clock.fetch_max(version, Ordering::SeqCst);
    }

    fn find(&self, tag: BufferTag) -> Result<&RwLock<Vec<u8>>, String> {
        match self.pages.get(&tag.block) {
            Some(page) if self.refused != Some(tag.block) => Ok(page),
            _ => Err("the peer is gone".to_owned()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared<'a>(RwLockReadGuard<'a, Vec<u8>>);

impl Deref for Shared<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Debug)]
pub(crate) struct Exclusive<'a>(RwLockWriteGuard<'a, Vec<u8>>, &'a MemoryPages);

impl Deref for Exclusive<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl PageWrite for Exclusive<'_> {
    fn update(&mut self, change: &mut dyn FnMut(&mut [u8])) -> Result<Lsn, LeaseExpired> {
        change(&mut self.0);
        let version = Lsn(self.1.clock.fetch_add(1, Ordering::SeqCst) + 1);
        page::set_lsn(&mut self.0, version);
        Ok(version)
    }
}

impl Pages for MemoryPages {
    type Read<'a> = Shared<'a>;
    type Write<'a> = Exclusive<'a>;
    type Error = String;

    fn read(&self, tag: BufferTag) -> Result<Shared<'_>, String> {
        let page = self.find(tag)?.read().map_err(|error| error.to_string())?;
        self.see(page::lsn(&page).0);
        Ok(Shared(page))
    }

    fn write(&self, tag: BufferTag) -> Result<Exclusive<'_>, String> {
        let page = self.find(tag)?.write().map_err(|error| error.to_string())?;
        self.see(page::lsn(&page).0);
        Ok(Exclusive(page, self))
    }
}

/// A finished run of `instances` x `threads` workers; its files are in the folder.
pub(crate) struct Run {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) manifest: Manifest,
    pub(crate) relation: PathBuf,
    pub(crate) logs: Vec<PathBuf>,
    pub(crate) transfers: u64,
}

pub(crate) fn run(pages: u32, instances: u16, threads: u64, actions: u64) -> Run {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let prepared = relation::prepare_synthetic(folder.path(), PageSize::K8, pages, 5)
        .expect("a prepared relation");
    let memory = MemoryPages::load(&prepared.manifest, &prepared.path);
    let mut run = Run {
        folder,
        manifest: prepared.manifest,
        relation: prepared.path,
        logs: Vec::new(),
        transfers: 0,
    };
    let stop = AtomicBool::new(false);
    let ledgers: Vec<Ledger> = (0..instances)
        .map(|instance| {
            let path = run.folder.path().join(format!("log.{instance}"));
            let header = LogHeader { instance: InstanceId(instance), incarnation: Incarnation(1) };
            run.logs.push(path.clone());
            Ledger::create(run.manifest.clone(), &path, header, instance == 0).expect("a ledger")
        })
        .collect();
    thread::scope(|scope| {
        for ledger in &ledgers {
            let instance = memory.another_instance();
            for thread in 0..threads {
                let (pages, stop) = (instance.clone(), &stop);
                scope.spawn(move || {
                    let stream = u64::from(ledger.instance.0) * threads + thread;
                    let mut random = Random::stream(9, stream);
                    ledger.work(&pages, &mut random, stop).expect("no page is refused");
                });
            }
        }
        let done = |ledger: &Ledger| {
            let counts = ledger.counts();
            [&counts.transfers, &counts.audits, &counts.reads]
                .map(|counter| counter.load(Ordering::Relaxed))
                .iter()
                .sum::<u64>()
        };
        while run.manifest.page_count > 0 && ledgers.iter().any(|ledger| done(ledger) < actions) {
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    for ledger in &ledgers {
        ledger.finish_log().expect("the log is synced");
        run.transfers += ledger.counts.transfers.load(Ordering::Relaxed);
        assert_eq!(ledger.counts.audit_failures.load(Ordering::Relaxed), 0);
    }
    memory.store(&run.manifest, &run.relation);
    run
}

#[test]
fn a_run_of_three_instances_verifies() {
    let run = run(100, 3, 2, 3000);
    assert!(run.transfers > 3000, "{}", run.transfers);
    let logs = verify::open_logs(&run.logs).expect("three logs");
    let relation = fs::File::open(&run.relation).expect("the relation");
    let result = verify::verify(&run.manifest, relation, logs, Some(run.transfers))
        .expect("the files are readable");
    assert!(result.verified, "{result:#?}");
    assert_eq!(result.transfers, run.transfers);
    assert_eq!(result.total_before, run.manifest.total());
}

#[test]
fn relations_without_two_accounts_are_only_audited_and_read() {
    for pages in [0, 1] {
        let run = run(pages, 1, 2, 50);
        assert_eq!(run.transfers, 0);
    }
}

fn ledger(manifest: Manifest, folder: &Path) -> Ledger {
    let header = LogHeader { instance: InstanceId(1), incarnation: Incarnation(1) };
    Ledger::create(manifest, &folder.join("log"), header, false).expect("a ledger")
}

#[test]
fn actions_come_in_their_shares_and_name_two_accounts_of_one_group() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let prepared = relation::prepare_synthetic(folder.path(), PageSize::K8, 200, 5)
        .expect("a prepared relation");
    let ledger = ledger(prepared.manifest, folder.path());
    let (mut transfers, mut audits, mut reads) = (0, 0, 0);
    let mut random = Random::new(1);
    for _ in 0..10_000 {
        match ledger.choose(&mut random).expect("there is always something to do") {
            Action::Transfer { from, to, amount } => {
                let group = ledger.manifest.groups.iter().find(|group| group.contains(&from));
                assert!(from != to && group.is_some_and(|group| group.contains(&to)));
                assert!((1..=100).contains(&amount));
                transfers += 1;
            }
            Action::Audit(group) => {
                assert!(group.is_sorted());
                audits += 1;
            }
            Action::Read(block) => {
                assert!(ledger.manifest.read_only.contains(&block));
                reads += 1;
            }
        }
    }
    assert!((7800..8200).contains(&transfers), "{transfers}");
    assert!((1400..1600).contains(&audits), "{audits}");
    assert!((400..600).contains(&reads), "{reads}");
}

#[test]
fn a_page_that_cannot_be_had_ends_the_worker_with_its_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let prepared = relation::prepare_synthetic(folder.path(), PageSize::K8, 3, 5)
        .expect("a prepared relation");
    let mut pages = MemoryPages::load(&prepared.manifest, &prepared.path);
    pages.refused = Some(1);
    let ledger = ledger(prepared.manifest, folder.path());
    let stop = AtomicBool::new(false);
    let error = ledger.work(&pages, &mut Random::new(1), &stop).expect_err("block 1 is refused");
    let text = error.to_string();
    assert!(text.starts_with("cannot hold page 1663/5/16384:1"), "{text}");
    assert!(text.ends_with("the peer is gone"), "{text}");
}

#[test]
fn money_that_vanished_is_an_audit_failure() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let prepared = relation::prepare_synthetic(folder.path(), PageSize::K8, 3, 5)
        .expect("a prepared relation");
    let pages = MemoryPages::load(&prepared.manifest, &prepared.path);
    let ledger = ledger(prepared.manifest, folder.path());
    ledger.audit(&pages, &ledger.manifest.groups[0], &mut BTreeMap::new()).expect("readable");
    assert_eq!(ledger.counts.audit_failures.load(Ordering::Relaxed), 0);
    let mut guard: Exclusive<'_> = pages.write(ledger.manifest.tag(2)).expect("held");
    let init = &mut |page: &mut [u8]| account::init(page, 7, 999).expect("room for an account");
    guard.update(init).expect("a lease");
    drop(guard);
    ledger.audit(&pages, &ledger.manifest.groups[0], &mut BTreeMap::new()).expect("readable");
    assert_eq!(ledger.counts.audit_failures.load(Ordering::Relaxed), 1);
}

#[test]
fn an_account_that_an_audit_has_mapped_and_nobody_told_it_of_has_moved_is_a_stale_use() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let prepared = relation::prepare_synthetic(folder.path(), PageSize::K8, 3, 5)
        .expect("a prepared relation");
    let pages = MemoryPages::load(&prepared.manifest, &prepared.path);
    let ledger = ledger(prepared.manifest, folder.path());
    let (group, mut map) = (&ledger.manifest.groups[0], BTreeMap::new());
    for expected in [0, 2, 2] {
        ledger.audit(&pages, group, &mut map).expect("readable");
        assert_eq!(ledger.counts.stale_uses.load(Ordering::Relaxed), expected);
        if expected == 0 {
            for (block, number) in [(group[0], group[1]), (group[1], group[0])] {
                let mut guard: Exclusive<'_> =
                    pages.write(ledger.manifest.tag(block)).expect("held");
                let account = account::read(&guard).expect("an account");
                assert_eq!(account.number, block);
                let account = account::Account { number, ..account };
                let change = &mut |page: &mut [u8]| account::write(page, &account).expect("room");
                guard.update(change).expect("a lease");
            }
        }
    }
}
