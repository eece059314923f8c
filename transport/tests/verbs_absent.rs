//! A host without RDMA gets one of three answers, each with its remedy; never a panic.

use pagewire_protocol::{ClusterId, InstanceId};
use pagewire_transport::{
    Arena, ArenaConfig, Endpoint, EndpointConfig, LinkPolicy,
    link::verbs::{VerbsError, device},
};
use std::path::Path;

#[test]
fn a_host_without_rdma_is_told_which_of_three_things_it_lacks() {
    let answer = device::device_names();
    if Path::new("/sys/class/infiniband").read_dir().is_ok_and(|mut it| it.next().is_some()) {
        // This host has a device; it then has names, or says that they have no provider.
        match answer {
            Ok(names) => assert!(!names.is_empty()),
            Err(error) => assert!(
                matches!(error, VerbsError::NoProvider { .. } | VerbsError::LibraryMissing { .. }),
                "{error}"
            ),
        }
        return;
    }
    let error = answer.expect_err("there is no device in sysfs");
    let remedy = match &error {
        VerbsError::LibraryMissing { .. } => "ibverbs-providers",
        VerbsError::NoKernelSupport => "modprobe ib_uverbs",
        VerbsError::NoDevice => "rdma link add rxe0",
        other => panic!("not one of the three answers: {other}"),
    };
    assert!(error.to_string().contains(remedy), "{error}");
}

#[test]
fn an_endpoint_that_is_to_use_verbs_only_is_refused_with_that_answer() {
    let Err(answer) = device::device_names() else { return };
    let arena = ArenaConfig { huge_pages: false, ..ArenaConfig::new(64) };
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = EndpointConfig {
        links: LinkPolicy::Verbs,
        ..EndpointConfig::new(ClusterId(1), InstanceId(1), listen)
    };
    let error = Endpoint::bind(config, Arena::new(&arena).unwrap()).unwrap_err().to_string();
    assert!(error.contains("the configuration demands verbs"), "{error}");
    assert!(error.contains(&answer.to_string()) && error.contains("`auto`"), "{error}");
}

#[test]
fn asking_again_gives_the_same_answer() {
    let answer = || device::open_all().map(|devices| devices.len()).map_err(|e| e.to_string());
    assert_eq!(answer(), answer());
}
