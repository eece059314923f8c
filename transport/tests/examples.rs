//! The examples work: server and client against each other, from their own source files.

#[allow(dead_code)] // Its `main`.
#[path = "../examples/echo_client.rs"]
mod echo_client;
#[allow(dead_code)] // Its `main`.
#[path = "../examples/echo_server.rs"]
mod echo_server;

use std::thread;

#[test]
fn every_page_that_the_client_sends_comes_back() {
    const PAGES: u64 = 1000;
    let any_port = "127.0.0.1:0".parse().unwrap();
    let mut server = echo_server::bind(any_port).unwrap();
    let mut client = echo_client::bind(any_port).unwrap();
    let (server_address, client_address) = (server.listen_address(), client.listen_address());
    let served = thread::spawn(move || {
        echo_server::serve(&mut server, client_address).map_err(|error| error.to_string())
    });
    let times = echo_client::echo(&mut client, server_address, PAGES).unwrap();
    assert_eq!(times.count(), PAGES);
    assert!(times.quantile_ns(0.5) > 0 && times.quantile_ns(0.5) <= times.quantile_ns(0.99));
    drop(client);
    assert_eq!(served.join().unwrap(), Ok(PAGES), "the server ends with the client");
}
