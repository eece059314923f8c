//! What is told and when, by a made-up clock.

use super::*;

const ME: InstanceId = InstanceId(0);
const PEER: InstanceId = InstanceId(3);
const LIFE: Incarnation = Incarnation(70);
const MINE: Incarnation = Incarnation(60);

/// Marks and storage as these say.
struct Sees<M, S>(M, S);

impl<M, S> Look for Sees<M, S>
where
    M: FnMut(InstanceId) -> Option<Incarnation>,
    S: FnMut() -> Result<(), String>,
{
    fn mark(&mut self, instance: InstanceId) -> Option<Incarnation> {
        self.0(instance)
    }

    fn storage(&mut self) -> Result<(), String> {
        self.1()
    }
}

/// Looks every second, from 0 to `last`; what is found in the peer's mark, by the second. What is
/// told, with its second.
fn watch(last: u64, mark: impl Fn(InstanceId, u64) -> Option<Incarnation>) -> Vec<(u64, News)> {
    let start = Instant::now();
    let mut watch = StorageWatch::new(ME, MINE, "/srv/pagewire".as_ref(), start);
    let mut told = Vec::new();
    for second in 0..=last {
        let now = start + Duration::from_secs(second);
        let news =
            watch.observe(&[(PEER, LIFE)], &[], now, &mut Sees(|id| mark(id, second), || Ok(())));
        told.extend(news.into_iter().map(|news| (second, news)));
    }
    told
}

fn sound(id: InstanceId) -> Option<Incarnation> {
    Some(if id == ME { MINE } else { LIFE })
}

#[test]
fn a_peer_whose_mark_is_there_or_comes_soon_is_no_news() {
    assert_eq!(watch(100, |id, _| sound(id)), []);
    let late = |id, second| sound(id).filter(|_| id == ME || second >= 9);
    assert_eq!(watch(100, late), []);
}

#[test]
fn a_peer_whose_mark_does_not_come_has_other_storage_and_is_told_of_each_minute() {
    for (found, words) in [
        (None, "its mark is not in /srv/pagewire, expected one of incarnation 70"),
        (Some(Incarnation(71)), "of incarnation 71, expected 70"),
    ] {
        let told = watch(100, |id, _| if id == ME { Some(MINE) } else { found });
        let [(10, News::Tell(line)), (70, News::Tell(again))] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(line, again);
        for words in ["storage of instance 3 is not this storage", words, "`storage`"] {
            assert!(line.contains(words), "{words} in: {line}");
        }
    }
}

#[test]
fn that_a_peer_has_other_storage_stands_while_there_is_a_link_until_its_mark_is_there() {
    let start = Instant::now();
    let mut watch = StorageWatch::new(ME, MINE, "/srv/pagewire".as_ref(), start);
    let other = InstanceId(4);
    let mut told = Vec::new();
    for second in 0..=60 {
        let now = start + Duration::from_secs(second);
        let linked = if (30..40).contains(&second) { vec![] } else { vec![(PEER, LIFE)] };
        let linked = [linked, vec![(other, LIFE)]].concat();
        let mark = |id| if id == ME { Some(MINE) } else { Some(LIFE).filter(|_| second >= 45) };
        let news = watch.observe(&linked, &[], now, &mut Sees(mark, || Ok(())));
        told.extend(news.into_iter().map(|news| (second, news)));
        let found = watch.found();
        let is_other = |id| found.others.contains_key(&id);
        let stands = (10..30).contains(&second) || (40..50).contains(&second);
        assert_eq!(is_other(PEER), stands, "{second}");
        assert_eq!(is_other(other), (10..50).contains(&second), "{second}");
        let problem = found.problem().unwrap_or_default();
        let names = ["instance 3 is not", "instance 4 is not", "stop all instances"];
        let is_told = names.map(|words| problem.contains(words));
        assert_eq!(is_told, [is_other(PEER), is_other(other), is_other(other)], "{problem}");
    }
    let [(10, _), (10, _), (50, News::Over(one)), (50, News::Over(two))] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(one, "storage of instance 3 is this storage: its mark is there");
    assert!(two.contains("instance 4 is this storage"), "{two}");
}

#[test]
fn the_next_life_of_a_peer_is_looked_for_anew() {
    let start = Instant::now();
    let mut watch = StorageWatch::new(ME, MINE, "/srv".as_ref(), start);
    let mut told = Vec::new();
    for second in 0..40 {
        let life = if second < 20 { LIFE } else { Incarnation(LIFE.0 + 1) };
        let now = start + Duration::from_secs(second);
        let news = watch.observe(&[(PEER, life)], &[], now, &mut Sees(sound, || Ok(())));
        told.extend(news.into_iter().map(|_| second));
    }
    assert_eq!(told, [30], "its mark is still of the life before");
}

#[test]
fn while_this_instance_has_no_storage_no_peer_is_blamed_and_all_are_looked_for_when_it_is_back() {
    let start = Instant::now();
    let mut watch = StorageWatch::new(ME, MINE, "/srv/pagewire".as_ref(), start);
    let mut told = Vec::new();
    // It goes just after it was looked at, and the peer comes.
    for second in 11..=60 {
        let storage = || if second < 30 { Err("gone".to_owned()) } else { Ok(()) };
        let mark = |id| if id == ME { Some(MINE) } else { None };
        let now = start + Duration::from_secs(second);
        let later = [(InstanceId(4), LIFE)];
        let news = watch.observe(&[(PEER, LIFE)], &later, now, &mut Sees(mark, storage));
        told.extend(news.into_iter().map(|news| (second, news)));
        assert!(second >= 30 || watch.found().later.is_empty());
    }
    let [(11, News::Tell(gone)), (over, News::Over(_)), (blamed, News::Tell(peer))] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert!(gone.contains("is not what this instance started with"), "{gone}");
    assert!(peer.contains("storage of instance 3 is not this storage"), "{peer}");
    assert!(30 <= *over && *over + 10 <= *blamed, "{told:?}");
}

#[test]
fn a_mark_of_this_instance_that_somebody_writes_over_is_left_again_and_told_once_a_minute() {
    let other = |id, _| if id == ME { Some(Incarnation(61)) } else { sound(id) };
    let told = watch(100, other);
    let again = told.iter().filter(|(_, news)| *news == News::LeaveAgain).count();
    let lines: Vec<_> = told.iter().filter(|(_, news)| *news != News::LeaveAgain).collect();
    assert_eq!(again, 10, "{told:?}");
    let [(20, News::Tell(line)), (80, News::Tell(_))] = lines[..] else { panic!("{lines:?}") };
    assert!(line.contains("another instance 0 was started on this storage"), "{line}");
    // By one that was refused, and has not put it back.
    let refused =
        |id, second| if (10..20).contains(&second) { other(id, second) } else { sound(id) };
    assert_eq!(watch(100, refused), [(10, News::LeaveAgain)]);
    // One that is merely gone is put back.
    let told = watch(15, |id, _| sound(id).filter(|_| id != ME));
    assert_eq!(told, [(10, News::LeaveAgain)]);
}

#[test]
fn a_storage_that_is_gone_is_told_each_minute_and_gets_no_mark_until_it_is_back() {
    let start = Instant::now();
    let mut watch = StorageWatch::new(ME, MINE, "/srv/shared/pagewire".as_ref(), start);
    let mut told = Vec::new();
    for second in 0..=130 {
        let storage = || match second {
            20..100 => Err("it is not there".to_owned()),
            100..120 => Err("it is another one".to_owned()),
            _ => Ok(()),
        };
        let mark = |id: InstanceId| sound(id).filter(|_| id != ME || second < 20);
        let now = start + Duration::from_secs(second);
        let news = watch.observe(&[], &[], now, &mut Sees(mark, storage));
        assert_eq!(watch.found().storage.is_some(), (20..120).contains(&second), "{second}");
        told.extend(news.into_iter().map(|news| (second, news)));
    }
    let [
        (20, News::Tell(gone)),
        (80, News::Tell(still)),
        (100, News::Tell(other)),
        (120, News::Over(back)),
        (120 | 130, News::LeaveAgain),
        (130, News::LeaveAgain),
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(gone, still);
    for words in [
        "storage /srv/shared is not what this instance started with",
        "it is not there",
        "put it back",
    ] {
        assert!(gone.contains(words), "{words} in: {gone}");
    }
    assert!(other.contains("it is another one"), "{other}");
    assert_eq!(back, "storage /srv/shared is there again");
}

#[test]
fn a_peer_that_is_gone_and_was_started_again_is_known_to_be_over_until_there_is_a_link() {
    let start = Instant::now();
    let mut watch = StorageWatch::new(ME, MINE, "/srv/pagewire".as_ref(), start);
    let mut later = |second, linked: &Lives, gone: &Lives, found| {
        let mark = |id| if id == ME { Some(MINE) } else { found };
        let now = start + Duration::from_secs(second);
        watch.observe(linked, gone, now, &mut Sees(mark, || Ok(())));
        watch.found().later.get(&PEER).copied()
    };
    let next = Incarnation(LIFE.0 + 5);
    assert_eq!(later(3, &[], &[(PEER, LIFE)], Some(LIFE)), None, "it may come back");
    assert_eq!(later(6, &[], &[(PEER, LIFE)], Some(next)), Some(next));
    assert_eq!(later(9, &[], &[(PEER, LIFE)], None), Some(next), "it was seen");
    assert_eq!(later(12, &[(PEER, next)], &[], Some(next)), None);
}
