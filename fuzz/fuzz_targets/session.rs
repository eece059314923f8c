//! One session against a peer that says anything: whatever comes, the numbers of each lane stay
//! within their bounds, what is delivered is the next of its lane, and no receive is used twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_fuzz::{Input, arena, header};
use pagewire_protocol::{Body, InstanceId, Lane, MessageKind, Sequence, SessionHeader};
use pagewire_transport::{
    Arena, Message,
    session::{Disposition, Rejected, Session},
};

const ME: InstanceId = InstanceId(1);
const PEER: InstanceId = InstanceId(2);
const WINDOWS: [u32; Lane::COUNT] = [8, 4, 4, 2, 2];
/// The most that a session keeps of a lane, whatever the peer says.
const KEPT_MAX: u32 = 4096;

/// What is known about the session from the outside.
struct Model {
    delivered: [u64; Lane::COUNT],
    /// Receives posted on this link that nothing has come for.
    posted: [u32; Lane::COUNT],
    submitted: [u64; Lane::COUNT],
}

thread_local!(static ARENA: Arena = arena(16));

fuzz_target!(|bytes: &[u8]| ARENA.with(|arena| run(arena, &mut Input::new(bytes))));

fn run(arena: &Arena, input: &mut Input<'_>) {
    let mut session = Session::new(ME, PEER, WINDOWS);
    let mut model = Model {
        delivered: [0; Lane::COUNT],
        posted: [0; Lane::COUNT],
        submitted: [0; Lane::COUNT],
    };
    while !input.is_empty() {
        step(&mut session, &mut model, arena, input);
        for lane in Lane::ALL {
            check(&session, &model, lane);
        }
    }
    let kept = session.unacknowledged();
    assert_eq!(session.end().len(), kept);
    assert_eq!(arena.free_frames(), arena.frames(), "a frame is lost");
}

fn step(session: &mut Session, model: &mut Model, arena: &Arena, input: &mut Input<'_>) {
    let op = input.byte();
    let lane = input.lane();
    let i = lane.index();
    match op % 8 {
        0 => submit(session, model, arena, lane),
        1 if session.next_outgoing(lane).is_some() => {
            session.transmitted(lane);
        }
        2 => relink(session, model, input),
        3 => session.link_down(),
        4 if session.is_linked() => {
            session.posted(lane);
            model.posted[i] += 1;
        }
        5 => {
            let header = session.ack_alone(lane);
            assert_eq!(header.ack, Sequence(model.delivered[i]));
            let _ = session.ack_due(lane);
        }
        // Half of what comes is what an honest peer would send.
        6 if session.is_linked() => {
            let (header, _) = header(input, lane, PEER);
            receive(session, model, &header);
        }
        7 if session.is_linked() => {
            let (header, _) = header(input, lane, PEER);
            let honest = SessionHeader {
                sequence: match header.sequence {
                    Sequence(0) => Sequence(0),
                    _ => Sequence(model.delivered[i] + 1),
                },
                ack: Sequence(header.ack.0.min(session.last_sent(lane).0)),
                ..header
            };
            receive(session, model, &honest);
        }
        _ => {}
    }
}

fn submit(session: &mut Session, model: &mut Model, arena: &Arena, lane: Lane) {
    let number = model.submitted[lane.index()] + 1;
    let body = Body::new(&number.to_le_bytes()).expect("eight bytes");
    let mut message = Message::new(MessageKind(200), body);
    if lane.class().has_frame() {
        let Some(frame) = arena.take() else { return };
        message.frame = Some(frame.freeze());
    }
    let room = session.room(lane);
    match session.submit(lane, message) {
        Ok(()) => {
            assert!(room > 0, "taken without room");
            model.submitted[lane.index()] = number;
        }
        Err(Rejected::NoCredit(_)) => assert_eq!(room, 0, "refused with room"),
        Err(other) => panic!("{other:?}"),
    }
}

fn relink(session: &mut Session, model: &mut Model, input: &mut Input<'_>) {
    session.link_down();
    let honest = !input.byte().is_multiple_of(4);
    let expected = Lane::ALL.map(|lane| {
        let (acked, sent) = (session.acknowledged(lane).0, session.last_sent(lane).0);
        let any = u64::from(input.byte());
        Sequence(if honest { acked + 1 + any % (sent - acked + 1) } else { any })
    });
    let credits = [(); Lane::COUNT].map(|()| input.word());
    let before = session.expected();
    let kept = session.unacknowledged();
    if session.link_up(expected, credits, WINDOWS).is_ok() {
        model.posted = WINDOWS;
    } else {
        assert!(!honest, "an honest peer gets no link");
        assert_eq!((session.expected(), session.unacknowledged()), (before, kept));
    }
}

fn receive(session: &mut Session, model: &mut Model, header: &SessionHeader) {
    let i = header.lane.index();
    match session.receive(header) {
        Ok(Disposition::Deliver) => {
            assert_eq!(header.sequence.0, model.delivered[i] + 1, "out of order");
            assert!(model.posted[i] > 0, "delivered without a receive");
            model.delivered[i] += 1;
            model.posted[i] -= 1;
        }
        Ok(Disposition::Duplicate) => {
            assert!(header.sequence.0 <= model.delivered[i], "not seen before");
            // As the endpoint does: its receive is posted again.
            session.posted(header.lane);
        }
        Ok(Disposition::AckOnly) => assert_eq!(header.kind, MessageKind::ACK_ONLY),
        // The endpoint closes the link.
        Err(_) => session.link_down(),
    }
}

fn check(session: &Session, model: &Model, lane: Lane) {
    let i = lane.index();
    let numbers = session.numbers(lane);
    assert!(numbers.kept <= numbers.window && numbers.window <= KEPT_MAX, "{lane:?} {numbers:?}");
    assert!(numbers.waiting <= numbers.kept, "{lane:?} {numbers:?}");
    assert!(session.acknowledged(lane) <= session.last_sent(lane), "{lane:?}");
    assert!(session.last_sent(lane).0 <= model.submitted[i], "{lane:?}");
    assert_eq!(session.expected()[i], Sequence(model.delivered[i] + 1), "{lane:?}");
    if session.is_linked() {
        let posted = numbers.posted.wrapping_sub(numbers.received);
        assert_eq!(posted, model.posted[i], "{lane:?} {numbers:?}");
    }
}
