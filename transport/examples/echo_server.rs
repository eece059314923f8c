//! Sends every page back to whoever sent it, in the very frame that it arrived in.
//!
//! ```text
//!   cargo run --release --example echo_server -- LISTEN CLIENT     on one host or in one shell
//!   cargo run --release --example echo_client -- LISTEN SERVER     on the other
//!   e.g. 127.0.0.1:7501 127.0.0.1:7502, and 127.0.0.1:7502 127.0.0.1:7501
//! ```
//! It goes on until it is ended (Ctrl-C): links come and go under a session, and when the client's
//! life is over, its next one is served.

use pagewire_protocol::{ClusterId, InstanceId};
use pagewire_transport::{Arena, ArenaConfig, Endpoint, EndpointConfig, Event, Message, SendError};
use std::{collections::VecDeque, error::Error, net::SocketAddr, time::Duration};

const SERVER: InstanceId = InstanceId(1);
const CLIENT: InstanceId = InstanceId(2);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, client] = &arguments[..] else {
        return Err("expected two addresses: where to listen, and the client's".into());
    };
    let mut endpoint = bind(listen.parse()?)?;
    println!("listening on {}", endpoint.listen_address());
    serve(&mut endpoint, client.parse()?, || true).map(drop)
}

pub(crate) fn bind(listen: SocketAddr) -> Result<Endpoint, Box<dyn Error>> {
    let arena = Arena::new(&ArenaConfig::new(256))?;
    Ok(Endpoint::bind(EndpointConfig::new(ClusterId(1), SERVER, listen), arena)?)
}

/// Serves the client, and its later lives, as long as `goes_on`; returns the number of pages sent
/// back.
pub(crate) fn serve(
    endpoint: &mut Endpoint,
    client: SocketAddr,
    goes_on: impl Fn() -> bool,
) -> Result<u64, Box<dyn Error>> {
    endpoint.add_peer(CLIENT, client)?;
    let mut answers = VecDeque::new();
    let mut sent = 0;
    while goes_on() {
        endpoint.wait(Duration::from_millis(100), || false);
        while let Some(event) = endpoint.next_event() {
            match event {
                Event::Up { peer, incarnation } => println!("instance {peer} {incarnation} is up"),
                Event::Message(received) => answers.push_back((received.lane, answer(received))),
                // The session stays, and what was sent is delivered on the next link.
                Event::Down { peer, reason } => println!("the link with {peer} is down: {reason}"),
                Event::Linked { peer } => println!("instance {peer} is linked again"),
                Event::Ended { peer, incarnation, .. } => {
                    println!("instance {peer} {incarnation} has ended; {sent} pages sent back");
                    // Its next life did not ask for these.
                    answers.clear();
                }
                other => println!("{other:?}"),
            }
        }
        // Without credit an answer stays and is tried again: the lane's order is kept.
        while let Some((lane, message)) = answers.pop_front() {
            match endpoint.send(CLIENT, lane, message) {
                Ok(()) => sent += 1,
                Err(SendError::NoCredit(message)) => {
                    answers.push_front((lane, message));
                    break;
                }
                Err(other) => return Err(format!("{other:?}").into()),
            }
        }
    }
    Ok(sent)
}

/// What came, with the same frame: nothing is copied.
fn answer(received: pagewire_transport::Received) -> Message {
    let frame = received.frame.map(pagewire_transport::Frame::freeze);
    Message { frame, ..Message::new(received.kind, received.body) }
}
