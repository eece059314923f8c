use super::*;

fn gid(index: u32, address: &str, kind: GidKind) -> Gid {
    let address = match address.parse().unwrap() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    Gid { index, address, kind, interface: Some("eth0".to_owned()) }
}

fn roce(name: &str, address: &str) -> DeviceFacts {
    let gids = vec![
        gid(0, "fe80::1", GidKind::RoceV1),
        gid(1, "fe80::1", GidKind::RoceV2),
        gid(2, address, GidKind::RoceV1),
        gid(3, address, GidKind::RoceV2),
    ];
    let port = PortFacts {
        number: 1,
        state: PortState::Active,
        link_layer: LinkLayer::Ethernet,
        lid: 0,
        active_mtu: Mtu::Bytes4096,
        gids,
    };
    DeviceFacts { name: name.to_owned(), ports: vec![port] }
}

fn infiniband(name: &str, lid: u16) -> DeviceFacts {
    let port = PortFacts {
        number: 1,
        state: PortState::Active,
        link_layer: LinkLayer::InfiniBand,
        lid,
        active_mtu: Mtu::Bytes4096,
        gids: vec![gid(0, "fe80::f", GidKind::InfiniBand)],
    };
    DeviceFacts { name: name.to_owned(), ports: vec![port] }
}

fn pick_from(
    devices: &[DeviceFacts],
    local: &str,
    overrides: &Overrides,
) -> Result<Choice, ChoiceError> {
    pick(devices, local.parse().unwrap(), overrides)
}

fn free() -> Overrides {
    Overrides::default()
}

#[test]
fn the_gid_with_the_connections_address_is_taken_and_roce_v2_of_both() {
    let devices = [roce("mlx5_0", "10.0.0.1"), roce("mlx5_1", "10.1.0.1")];
    let choice = pick_from(&devices, "10.1.0.1", &free()).unwrap();
    assert_eq!(choice.device, "mlx5_1");
    assert_eq!(choice.gid.unwrap(), gid(3, "10.1.0.1", GidKind::RoceV2));
    assert!(choice.global);
    let mapped = pick_from(&devices, "::ffff:10.0.0.1", &free()).unwrap();
    assert_eq!(mapped.device, "mlx5_0");
    let v6 = [roce("mlx5_0", "2001:db8::7")];
    assert_eq!(pick_from(&v6, "2001:db8::7", &free()).unwrap().gid.unwrap().index, 3);
}

#[test]
fn roce_v1_serves_where_there_is_no_v2() {
    let mut device = roce("old_0", "10.0.0.1");
    device.ports[0].gids.retain(|gid| gid.kind == GidKind::RoceV1);
    let choice = pick_from(&[device], "10.0.0.1", &free()).unwrap();
    assert_eq!(choice.gid.unwrap().index, 2);
}

#[test]
fn an_address_that_no_port_has_is_refused_with_the_addresses_there_are() {
    let error = pick_from(&[roce("rxe0", "10.0.0.1")], "127.0.0.1", &free()).unwrap_err();
    let text = error.to_string();
    for word in ["127.0.0.1", "rxe0/1 3: 10.0.0.1 RoCE v2 on eth0", "GID index"] {
        assert!(text.contains(word), "'{word}' in: {text}");
    }
    let none = pick_from(&[], "127.0.0.1", &free()).unwrap_err();
    assert!(none.to_string().contains("found none"));
}

#[test]
fn what_the_configuration_names_wrongly_is_answered_with_what_there_is() {
    let devices = [roce("rxe0", "10.0.0.1"), roce("rxe1", "10.0.0.2")];
    let device = Overrides { device: Some("mlx5_0".to_owned()), ..free() };
    let text = pick_from(&devices, "10.0.0.1", &device).unwrap_err().to_string();
    assert!(text.contains("mlx5_0") && text.contains("rxe0, rxe1"), "{text}");
    let port = Overrides { port: Some(2), ..free() };
    let text = pick_from(&devices, "10.0.0.1", &port).unwrap_err().to_string();
    assert!(text.contains("no port 2, found rxe0/1, rxe1/1"), "{text}");
    let index = Overrides { gid_index: Some(9), ..free() };
    let text = pick_from(&devices, "10.0.0.1", &index).unwrap_err().to_string();
    assert!(text.contains("index 9") && text.contains("rxe1/1 3: 10.0.0.2 RoCE v2"), "{text}");
}

#[test]
fn a_gid_index_is_taken_on_the_device_with_the_connections_address() {
    let devices = [roce("rxe0", "10.0.0.1"), roce("rxe1", "10.0.0.2")];
    let index = |gid_index| Overrides { gid_index: Some(gid_index), ..free() };
    assert_eq!(pick_from(&devices, "10.0.0.2", &index(3)).unwrap().device, "rxe1");
    let by_name = Overrides { device: Some("rxe1".to_owned()), ..index(1) };
    let choice = pick_from(&devices, "127.0.0.1", &by_name).unwrap();
    assert_eq!((choice.device.as_str(), choice.gid.unwrap().index), ("rxe1", 1));
}

#[test]
fn a_port_that_is_down_is_used_by_nobody_and_named() {
    let mut devices = [roce("rxe0", "10.0.0.1"), roce("rxe1", "10.0.0.1")];
    devices[0].ports[0].state = PortState::Down;
    assert_eq!(pick_from(&devices, "10.0.0.1", &free()).unwrap().device, "rxe1");
    let error = pick_from(&devices[..1], "10.0.0.1", &free()).unwrap_err();
    assert!(error.to_string().contains("rxe0/1 is down, expected active"), "{error}");
}

#[test]
fn infiniband_is_addressed_by_lid_and_two_active_ports_want_a_name() {
    let devices = [infiniband("mlx5_0", 7), infiniband("mlx5_1", 8)];
    let only = pick_from(&devices[..1], "10.0.0.1", &free()).unwrap();
    assert_eq!((only.lid, only.global), (7, false));
    let error = pick_from(&devices, "10.0.0.1", &free()).unwrap_err();
    assert!(error.to_string().contains("mlx5_0/1, mlx5_1/1"), "{error}");
    let named = Overrides { device: Some("mlx5_1".to_owned()), ..free() };
    assert_eq!(pick_from(&devices, "10.0.0.1", &named).unwrap().lid, 8);
    let routed = Overrides { gid_index: Some(0), ..named };
    assert!(pick_from(&devices, "10.0.0.1", &routed).unwrap().global);
    let both = [infiniband("mlx5_0", 7), roce("mlx5_1", "10.0.0.1")];
    assert_eq!(pick_from(&both, "10.0.0.1", &free()).unwrap().device, "mlx5_1");
}

#[test]
fn packet_sizes_are_the_codes_of_the_header() {
    assert_eq!(Mtu::from_code(3).map(Mtu::bytes), Some(1024));
    assert_eq!(Mtu::from_code(5).map(Mtu::bytes), Some(4096));
    assert_eq!((Mtu::from_code(0), Mtu::from_code(6)), (None, None));
}
