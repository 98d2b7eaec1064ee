use std::{
    env,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

use super::*;

fn block(base: &str, prefix: u8) -> IpBlock {
    IpBlock { base: base.parse().unwrap(), prefix }
}

fn redirect() -> Redirect {
    Redirect {
        outbound: 15001,
        inbound: 15006,
        mesh: 15008,
        health: vec![15022, 15023],
        exempt: Exempt::Uid(1337),
        skip_inbound_ports: vec![],
        skip_outbound_ports: vec![],
        skip_outbound_cidrs: vec![],
        ipv6: true,
    }
}

fn with_everything() -> Redirect {
    Redirect {
        exempt: Exempt::Mark(0x539),
        skip_inbound_ports: vec![9090, 22, 15022, 9090],
        skip_outbound_ports: vec![25, 3306],
        skip_outbound_cidrs: vec![block("169.254.169.254", 32), block("10.0.0.0", 8), block("fd00::", 8)],
        ipv6: false,
        ..redirect()
    }
}

#[test]
fn plain() {
    assert_eq!(render(&redirect()), include_str!("golden/plain.nft"));
}

#[test]
fn everything() {
    assert_eq!(render(&with_everything()), include_str!("golden/everything.nft"));
}

/// Runs `test` once more, in user and network namespaces of its own, and says whether this is that run. Needs nft, ip
/// and unshare, and a kernel that allows both namespaces: without them the test fails, as it should.
fn in_own_namespace(test: &str) -> bool {
    const INSIDE: &str = "OUTRIGGER_TEST_INSIDE";
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("redirect::tests::{test}")])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (package util-linux) is installed");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_kernel_takes_the_rules_again_and_again_and_lets_go_of_them() {
    if !in_own_namespace("the_kernel_takes_the_rules_again_and_again_and_lets_go_of_them") {
        return;
    }
    remove().unwrap();
    assert!(matches!(check(&redirect()), Err(RedirectError::Missing(_))), "there are none");
    let overlapping = vec![block("10.0.0.0", 8), block("10.1.0.0", 16), block("10.1.2.3", 8)];
    for rules in [redirect(), with_everything(), Redirect { skip_outbound_cidrs: overlapping, ..redirect() }] {
        apply(&rules).unwrap();
        apply(&rules).unwrap();
        let listed = run("nft list table inet outrigger");
        assert_eq!(listed.matches("redirect to :15001").count(), 3, "with one canary of each family: {listed}");
        assert_eq!(listed.matches("redirect to :15006").count(), 1, "{listed}");
    }
    check(&redirect()).unwrap();
    assert!(matches!(check(&Redirect { inbound: 1500, ..redirect() }), Err(RedirectError::Missing(_))));
    run("nft flush chain inet outrigger output");
    assert!(matches!(check(&redirect()), Err(RedirectError::Missing(why)) if why.contains("outbound")));
    apply(&redirect()).unwrap();
    let refused = apply(&Redirect { skip_outbound_cidrs: vec![block("10.0.0.0", 99)], ..redirect() });
    assert!(matches!(refused, Err(RedirectError::Refused(why)) if !why.is_empty()));
    assert!(run("nft list ruleset").contains("redirect"), "refused rules leave the earlier ones");
    remove().unwrap();
    remove().unwrap();
    assert_eq!(run("nft list ruleset"), "");
}

#[test]
fn apps_are_captured_and_proxies_are_not() {
    if !in_own_namespace("apps_are_captured_and_proxies_are_not") {
        return;
    }
    const MARK: u32 = 0x539;
    run("ip link set lo up");
    run("ip link add dev pod type veth peer name node");
    run("ip link set node up");
    run("ip link set pod up");
    for (proxy, here, there) in
        [("127.0.0.1:0", "10.9.0.1/24", "192.0.2.7:80"), ("[::1]:0", "fd09::1/64", "[2001:db8::7]:443")]
    {
        let there: SocketAddr = there.parse().unwrap();
        let family = if there.is_ipv4() { "-4" } else { "-6" };
        run(&format!("ip {family} addr add {here} dev pod{}", if there.is_ipv6() { " nodad" } else { "" }));
        run(&format!("ip {family} route add default dev pod"));
        let proxy = TcpListener::bind(proxy).unwrap();
        let outbound = proxy.local_addr().unwrap().port();
        apply(&Redirect { outbound, exempt: Exempt::Mark(MARK), ..redirect() }).unwrap();

        let _app = TcpStream::connect(there).unwrap();
        let (captured, _) = proxy.accept().unwrap();
        assert_eq!(original_destination(&captured), there);

        // The pod's own addresses are reached directly, and so is everything by a proxy: here into the void.
        let own = TcpListener::bind((here.split('/').next().unwrap(), 0)).unwrap();
        let _app = TcpStream::connect(own.local_addr().unwrap()).unwrap();
        own.accept().unwrap();
        let marked = Socket::new(Domain::for_address(there), Type::STREAM, None).unwrap();
        marked.set_mark(MARK).unwrap();
        marked.set_nonblocking(true).unwrap();
        marked.connect(&there.into()).unwrap_err();
        // Its canary alone takes the apps' way.
        let canary: IpAddr = if there.is_ipv4() { canary::V4.into() } else { canary::V6.into() };
        let marked = Socket::new(Domain::for_address(there), Type::STREAM, None).unwrap();
        marked.set_mark(MARK).unwrap();
        marked.connect(&SocketAddr::new(canary, canary::PORT).into()).unwrap();
        let (captured, _) = proxy.accept().unwrap();
        assert_eq!(original_destination(&captured), SocketAddr::new(canary, canary::PORT));
        let health = SocketAddr::new(there.ip(), 15023);
        TcpStream::connect_timeout(&health, Duration::from_millis(20)).unwrap_err();
        proxy.set_nonblocking(true).unwrap();
        assert_eq!(proxy.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

fn original_destination(stream: &TcpStream) -> SocketAddr {
    let socket = SockRef::from(stream);
    let address =
        if stream.local_addr().unwrap().is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    address.unwrap().as_socket().unwrap()
}
