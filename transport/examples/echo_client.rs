//! Sends pages to `echo_server`, checks what comes back, and prints how long it took.
//!
//! ```text
//!   cargo run --release --example echo_client -- LISTEN SERVER [PAGES]
//! ```

use pagewire_protocol::{Body, ClusterId, InstanceId, Lane, MessageKind};
use pagewire_transport::{
    Arena, ArenaConfig, Endpoint, EndpointConfig, Event, Message,
    histogram::{Distribution, Histogram},
};
use std::{
    error::Error,
    net::SocketAddr,
    time::{Duration, Instant},
};

const SERVER: InstanceId = InstanceId(1);
const CLIENT: InstanceId = InstanceId(2);
const ECHO: MessageKind = MessageKind(200);
/// Longest wait for the server, and for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (listen, server, pages) = match &arguments[..] {
        [listen, server] => (listen, server, 10_000),
        [listen, server, pages] => (listen, server, pages.parse()?),
        _ => return Err("expected two addresses, where to listen and the server's".into()),
    };
    let times = echo(&mut bind(listen.parse()?)?, server.parse()?, pages)?;
    let us = |quantile| times.quantile_ns(quantile) as f64 / 1000.0;
    println!("{} pages there and back: p50 {:.1} us, p99 {:.1} us", pages, us(0.5), us(0.99));
    Ok(())
}

pub(crate) fn bind(listen: SocketAddr) -> Result<Endpoint, Box<dyn Error>> {
    let arena = Arena::new(&ArenaConfig::new(256))?;
    Ok(Endpoint::bind(EndpointConfig::new(ClusterId(1), CLIENT, listen), arena)?)
}

/// Sends `pages` pages, one after the other; returns how long each took there and back.
pub(crate) fn echo(
    endpoint: &mut Endpoint,
    server: SocketAddr,
    pages: u64,
) -> Result<Distribution, Box<dyn Error>> {
    endpoint.add_peer(SERVER, server)?;
    while !matches!(next_event(endpoint)?, Event::Up { .. }) {}
    let times = Histogram::default();
    for number in 0..pages {
        let mut frame = endpoint.arena().take().ok_or("no free frame")?;
        frame.fill(number.to_le_bytes()[0]);
        let message = Message::new(ECHO, Body::new(&number.to_le_bytes()).ok_or("too long")?);
        let page = Message { frame: Some(frame.freeze()), ..message };
        let start = Instant::now();
        endpoint.send(SERVER, Lane::Pages, page).map_err(|error| format!("{error:?}"))?;
        let answer = loop {
            match next_event(endpoint)? {
                Event::Message(answer) => break answer,
                Event::Ended { .. } => return Err("the server has gone".into()),
                _ => {}
            }
        };
        times.record_duration(start.elapsed());
        let page = answer.frame.ok_or("an answer without a page")?;
        let is_same = page.iter().all(|&byte| byte == number.to_le_bytes()[0]);
        if !is_same || answer.body.as_slice() != number.to_le_bytes() {
            return Err(format!("page {number} came back changed").into());
        }
    }
    Ok(times.snapshot())
}

fn next_event(endpoint: &mut Endpoint) -> Result<Event, Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(event) = endpoint.next_event() {
            return Ok(event);
        }
        if Instant::now() >= deadline {
            return Err("no answer from the server".into());
        }
        endpoint.poll();
    }
}
