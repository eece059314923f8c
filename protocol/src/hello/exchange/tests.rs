//! Both machines against each other, against tampering, and against anything at all.

use super::*;
use crate::hello::Features;
use crate::hello::statement::tests::sample;
use proptest::prelude::*;

const KEY: ProofKey<'static> = ProofKey::new(b"thirty-two bytes of a cluster key");
const OTHER_KEY: ProofKey<'static> = ProofKey::new(b"another cluster's key, long enough");

/// What a handshake came to on each side.
#[derive(Debug)]
struct Outcome {
    dialler: Result<Hello, HandshakeError>,
    acceptor: Result<Hello, HandshakeError>,
    secrets: Option<[[u8; 32]; 2]>,
}

fn give_dialler(
    dialler: &mut Dialler,
    mut bytes: &[u8],
    key: ProofKey<'_>,
) -> Result<DiallerStep, HandshakeError> {
    let mut step = DiallerStep::More;
    while !bytes.is_empty() && step == DiallerStep::More {
        let room = dialler.room();
        let count = room.len().min(bytes.len()).min(7);
        room[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        step = dialler.filled(count, key)?;
    }
    Ok(step)
}

fn give_acceptor(
    acceptor: &mut Acceptor,
    mut bytes: &[u8],
    key: ProofKey<'_>,
) -> Result<AcceptorStep, HandshakeError> {
    let mut step = AcceptorStep::More;
    while !bytes.is_empty() && step == AcceptorStep::More {
        let room = acceptor.room();
        let count = room.len().min(bytes.len()).min(7);
        room[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        step = acceptor.filled(count, key)?;
    }
    Ok(step)
}

/// Runs a whole handshake; `tamper` sees each of the four messages on its way.
fn shake(keys: [ProofKey<'_>; 2], mut tamper: impl FnMut(usize, &mut [u8])) -> Outcome {
    let [dial_key, accept_key] = keys;
    let mut dialler = Dialler::new(dial_key.is_some(), Nonce([1; 32]));
    let mut acceptor = Acceptor::new(accept_key.is_some(), Nonce([2; 32]));
    let hellos = [sample(), Hello { instance: crate::InstanceId(2), ..sample() }];
    let over = Err(HandshakeError::Over);
    let mut outcome = Outcome { dialler: over, acceptor: over, secrets: None };

    let mut first = dialler.opening();
    tamper(1, &mut first);
    let mut second = match give_acceptor(&mut acceptor, &first, accept_key) {
        Ok(AcceptorStep::Reply(reply)) => reply.to_vec(),
        Ok(step) => panic!("{step:?}"),
        Err(error) => {
            outcome.acceptor = Err(error);
            let HandshakeError::Refused(why) = error else { return outcome };
            acceptor.refuse(why.refusal).as_slice().to_vec()
        }
    };
    tamper(2, &mut second);
    match give_dialler(&mut dialler, &second, dial_key) {
        Ok(DiallerStep::Speak) => {}
        Ok(step) => panic!("{step:?}"),
        Err(error) => {
            outcome.dialler = Err(error);
            return outcome;
        }
    }
    let mut third = dialler.speak(&hellos[0], dial_key);
    tamper(3, &mut third);
    let mut secret = None;
    outcome.acceptor = match give_acceptor(&mut acceptor, &third, accept_key) {
        Ok(AcceptorStep::Proven(hello)) => Ok(hello),
        Ok(step) => panic!("{step:?}"),
        Err(error) => Err(error),
    };
    let mut fourth = match outcome.acceptor {
        Ok(_) => {
            let (bytes, traffic) = acceptor.answer(&hellos[1], accept_key);
            secret = Some(traffic);
            bytes.to_vec()
        }
        Err(HandshakeError::Refused(why)) => acceptor.refuse(why.refusal).as_slice().to_vec(),
        Err(_) => return outcome,
    };
    tamper(4, &mut fourth);
    outcome.dialler = match give_dialler(&mut dialler, &fourth, dial_key) {
        Ok(DiallerStep::Proven(hello)) => Ok(hello),
        Ok(step) => panic!("{step:?}"),
        Err(error) => Err(error),
    };
    if let (Some(theirs), Ok(_)) = (secret, &outcome.dialler) {
        outcome.secrets = Some([*dialler.secret(dial_key).expose(), *theirs.expose()]);
    }
    outcome
}

fn refused_by(result: &Result<Hello, HandshakeError>) -> Option<Refusal> {
    match result {
        Err(HandshakeError::Refused(why) | HandshakeError::RefusedByPeer(why)) => Some(why.refusal),
        _ => None,
    }
}

#[test]
fn both_sides_learn_the_others_hello_and_share_a_secret() {
    for key in [KEY, ProofKey::NONE] {
        let outcome = shake([key, key], |_, _| {});
        assert_eq!(outcome.acceptor, Ok(sample()));
        assert_eq!(outcome.dialler.unwrap().instance, crate::InstanceId(2));
        let [ours, theirs] = outcome.secrets.unwrap();
        assert_eq!(ours, theirs);
        assert_ne!(ours, [0; 32]);
    }
}

/// What each side learns of the other's features when they speak up to these versions.
fn features_learned(versions: [u16; 2], stated: bool) -> [Result<Hello, HandshakeError>; 2] {
    let mut dialler = Dialler::new(true, Nonce([1; 32]));
    let mut acceptor = Acceptor::new(true, Nonce([2; 32]));
    (dialler.0.ours.version_max, acceptor.0.ours.version_max) = (versions[0], versions[1]);
    let Ok(AcceptorStep::Reply(reply)) = give_acceptor(&mut acceptor, &dialler.opening(), KEY)
    else {
        panic!("a reply")
    };
    assert_eq!(give_dialler(&mut dialler, &reply, KEY), Ok(DiallerStep::Speak));
    if stated {
        // As if it had not heard which version the other end speaks.
        dialler.0.ours.version_max = 3;
        dialler.0.theirs = dialler.0.theirs.map(|intro| Intro { version_max: 3, ..intro });
    }
    let third = dialler.speak(&sample(), KEY);
    let hello = |step| match step {
        AcceptorStep::Proven(hello) => hello,
        step => panic!("{step:?}"),
    };
    let at_acceptor = give_acceptor(&mut acceptor, &third, KEY).map(hello);
    let (fourth, _) = acceptor.answer(&sample(), KEY);
    let hello = |step| match step {
        DiallerStep::Proven(hello) => hello,
        step => panic!("{step:?}"),
    };
    [give_dialler(&mut dialler, &fourth, KEY).map(hello), at_acceptor]
}

#[test]
fn features_are_stated_only_where_both_ends_have_a_version_with_them() {
    let all = Features::READS | Features::CLOSING;
    assert_eq!(sample().features, all);
    for (versions, known) in [
        ([3, 3], Features::READS),
        ([4, 4], Features::READS),
        ([5, 4], Features::READS),
        ([3, 5], Features::READS),
        ([5, 5], all),
    ] {
        for learned in features_learned(versions, false) {
            assert_eq!(learned.unwrap().features, known, "{versions:?}");
        }
    }
    for versions in [[2, 3], [3, 2]] {
        for learned in features_learned(versions, false) {
            let learned = learned.unwrap();
            assert_eq!((learned.features, learned.view_mark), (Features::NONE, 0), "{versions:?}");
        }
    }
    let [_, at_acceptor] = features_learned([3, 2], true);
    let text = at_acceptor.unwrap_err().to_string();
    assert!(text.contains("hello features") && text.contains("version 2"), "{text}");
}

/// What an end of version `ours` hears when the other one takes it for one of `believed` and says `sample`.
fn heard_in_error(ours: u16, believed: u16) -> String {
    let mut acceptor = Acceptor::new(true, Nonce([2; 32]));
    acceptor.0.ours.version_max = ours;
    let mut dialler = Dialler::new(true, Nonce([1; 32]));
    let Ok(AcceptorStep::Reply(reply)) = give_acceptor(&mut acceptor, &dialler.opening(), KEY)
    else {
        panic!("a reply")
    };
    assert_eq!(give_dialler(&mut dialler, &reply, KEY), Ok(DiallerStep::Speak));
    dialler.0.theirs = dialler.0.theirs.map(|intro| Intro { version_max: believed, ..intro });
    let third = dialler.speak(&sample(), KEY);
    give_acceptor(&mut acceptor, &third, KEY).unwrap_err().to_string()
}

#[test]
fn the_longest_pause_is_stated_only_where_both_ends_have_version_4() {
    assert_eq!(sample().pause_max_ms, 333);
    for (versions, said) in [([4, 4], 333), ([3, 4], 0), ([4, 3], 0), ([2, 4], 0), ([4, 2], 0)] {
        for learned in features_learned(versions, false) {
            assert_eq!(learned.unwrap().pause_max_ms, said, "{versions:?}");
        }
    }
    let text = heard_in_error(3, 4);
    assert!(text.contains("hello longest pause") && text.contains("333"), "{text}");
}

#[test]
fn the_storage_is_stated_only_where_both_ends_have_version_6() {
    assert_eq!(sample().storage_mark, 17);
    for (versions, said) in [([6, 6], 17), ([5, 6], 0), ([6, 5], 0), ([2, 6], 0), ([6, 3], 0)] {
        for learned in features_learned(versions, false) {
            assert_eq!(learned.unwrap().storage_mark, said, "{versions:?}");
        }
    }
    let text = heard_in_error(5, 6);
    assert!(text.contains("hello storage mark") && text.contains("17"), "{text}");
}

#[test]
fn the_secret_depends_on_the_key_and_the_nonces() {
    let secret = |key: ProofKey<'_>| shake([key, key], |_, _| {}).secrets.unwrap()[0];
    assert_ne!(secret(KEY), secret(ProofKey::NONE));
    assert_ne!(secret(KEY), secret(OTHER_KEY));
}

#[test]
fn a_wrong_key_is_refused_and_both_sides_know_why() {
    let outcome = shake([KEY, OTHER_KEY], |_, _| {});
    assert!(matches!(outcome.acceptor, Err(HandshakeError::Refused(_))));
    assert!(matches!(outcome.dialler, Err(HandshakeError::RefusedByPeer(_))));
    for side in [&outcome.acceptor, &outcome.dialler] {
        assert_eq!(refused_by(side), Some(Refusal::Proof));
    }
}

#[test]
fn a_key_on_one_side_only_is_refused_and_both_sides_know_who_has_it() {
    for keys in [[KEY, ProofKey::NONE], [ProofKey::NONE, KEY]] {
        let outcome = shake(keys, |_, _| {});
        let sides = [(&outcome.acceptor, keys[0]), (&outcome.dialler, keys[1])];
        for (side, other_key) in sides {
            let (Err(HandshakeError::Refused(why)) | Err(HandshakeError::RefusedByPeer(why))) =
                side
            else {
                panic!("{side:?}");
            };
            assert_eq!((why.refusal, why.has_key), (Refusal::KeyMissing, other_key.is_some()));
        }
    }
}

#[test]
fn an_acceptor_without_the_key_is_refused_by_the_dialler() {
    // It takes anything for proven, and answers with what it has.
    let mut dialler = Dialler::new(true, Nonce([1; 32]));
    let mut acceptor = Acceptor::new(true, Nonce([2; 32]));
    let first = dialler.opening();
    let Ok(AcceptorStep::Reply(second)) = give_acceptor(&mut acceptor, &first, KEY) else {
        panic!("a reply");
    };
    assert_eq!(give_dialler(&mut dialler, &second, KEY), Ok(DiallerStep::Speak));
    dialler.speak(&sample(), KEY);
    let (fourth, _) = acceptor.answer(&sample(), OTHER_KEY);
    let outcome = give_dialler(&mut dialler, &fourth, KEY).map(|_| sample());
    assert!(matches!(outcome, Err(HandshakeError::Refused(_))), "{outcome:?}");
    assert_eq!(refused_by(&outcome), Some(Refusal::Proof));
    assert_eq!(dialler.room().len(), 0, "it reads no more");
}

#[test]
fn the_diallers_own_bytes_sent_back_prove_nothing() {
    let mut dialler = Dialler::new(true, Nonce([1; 32]));
    let first = dialler.opening();
    assert!(give_dialler(&mut dialler, &first, KEY).is_err(), "an intro of a dialler");
    // The same with the kind changed, and its proven hello sent back.
    let mut dialler = Dialler::new(true, Nonce([1; 32]));
    let mut first = dialler.opening();
    first[12] = 2;
    assert_eq!(give_dialler(&mut dialler, &first, KEY), Ok(DiallerStep::Speak));
    let third = dialler.speak(&sample(), KEY);
    let outcome = give_dialler(&mut dialler, &third, KEY).map(|_| sample());
    assert_eq!(refused_by(&outcome), Some(Refusal::Proof));
}

#[test]
fn a_bit_changed_anywhere_on_the_way_is_refused_by_one_side_at_least() {
    for key in [KEY, ProofKey::NONE] {
        for (message, length) in [(1, INTRO_BYTES), (2, INTRO_BYTES), (3, 160), (4, 160)] {
            for bit in 0..8 * length {
                let outcome = shake([key, key], |which, bytes| {
                    if which == message {
                        bytes[bit / 8] ^= 1 << (bit % 8);
                    }
                });
                assert!(outcome.dialler.is_err(), "bit {bit} of message {message}: {outcome:?}");
                // Only what comes after its own last word can escape the acceptor.
                assert!(message == 4 || outcome.acceptor.is_err(), "bit {bit} of {message}");
            }
        }
    }
}

#[test]
fn a_recorded_dialler_is_refused_by_a_fresh_acceptor() {
    let mut recorded = Vec::new();
    let good = shake([KEY, KEY], |which, bytes| {
        if which % 2 == 1 {
            recorded.push(bytes.to_vec());
        }
    });
    assert!(good.acceptor.is_ok());
    let mut acceptor = Acceptor::new(true, Nonce([3; 32]));
    assert!(matches!(give_acceptor(&mut acceptor, &recorded[0], KEY), Ok(AcceptorStep::Reply(_))));
    assert_eq!(acceptor.dialler_nonce(), Some(Nonce([1; 32])));
    let outcome = give_acceptor(&mut acceptor, &recorded[1], KEY).map(|_| sample());
    assert_eq!(refused_by(&outcome), Some(Refusal::Proof));
}

#[test]
fn nothing_beyond_a_message_is_asked_for() {
    let mut acceptor = Acceptor::new(false, Nonce([2; 32]));
    assert_eq!(acceptor.room().len(), INTRO_BYTES);
    let first = Dialler::new(false, Nonce([1; 32])).opening();
    acceptor.room().copy_from_slice(&first);
    acceptor.filled(INTRO_BYTES, ProofKey::NONE).unwrap();
    assert_eq!(acceptor.room().len(), PROVEN_BYTES);
    // A caller that counts wrong makes nothing worse.
    assert!(acceptor.filled(usize::MAX, ProofKey::NONE).is_err());
    assert_eq!(acceptor.filled(1, ProofKey::NONE), Err(HandshakeError::Over));
    assert_eq!(acceptor.room().len(), 0);
}

#[test]
fn a_stranger_is_told_by_its_first_byte() {
    let mut acceptor = Acceptor::new(true, Nonce([2; 32]));
    acceptor.room()[0] = b'G';
    let error = acceptor.filled(1, KEY).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("not a Pagewire peer: first bytes 47 (G), expected 50 41"), "{text}");
}

proptest! {
    #[test]
    fn anything_at_all_is_survived_and_never_proven(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..12),
        honest_intro in any::<bool>(),
    ) {
        let mut acceptor = Acceptor::new(true, Nonce([2; 32]));
        let mut dialler = Dialler::new(true, Nonce([1; 32]));
        let opening = dialler.opening();
        if honest_intro {
            let reply = give_acceptor(&mut acceptor, &opening, KEY).unwrap();
            let AcceptorStep::Reply(reply) = reply else { panic!("{reply:?}") };
            give_dialler(&mut dialler, &reply, KEY).unwrap();
            dialler.speak(&sample(), KEY);
        }
        for piece in pieces {
            let step = give_acceptor(&mut acceptor, &piece, KEY);
            prop_assert!(!matches!(step, Ok(AcceptorStep::Proven(_))));
            let step = give_dialler(&mut dialler, &piece, KEY);
            prop_assert!(!matches!(step, Ok(DiallerStep::Proven(_))));
        }
    }
}
