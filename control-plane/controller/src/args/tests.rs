use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Args, String> {
    Args::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
}

#[test]
fn it_is_well_formed() {
    Args::command().debug_assert();
}

#[test]
fn each_mode_has_its_settings() {
    let args = parse("controller --config-dir a --tokens b --state c").unwrap();
    assert!(!args.kubernetes);
    assert_eq!(args.embedded.state.unwrap(), PathBuf::from("c"));

    let args = parse("controller --kubernetes --pod-name outrigger-controller-1").unwrap();
    assert!(args.kubernetes);
    assert_eq!(args.cluster.pod_name.as_deref(), Some("outrigger-controller-1"));
    assert_eq!(args.cluster.root_secret, "outrigger-root");
    assert_eq!(args.cluster.webhook_listen.port(), 15017);
    assert_eq!(args.cluster.health_listen.port(), 15012);
    assert_eq!(args.listen.port(), 15010);
}

#[test]
fn half_of_a_mode_or_two_are_refused() {
    for (line, named) in [
        ("controller", "--kubernetes"),
        ("controller --config-dir a", "--tokens"),
        ("controller --config-dir a --tokens b", "--state"),
        ("controller --tokens b --state c", "--config-dir"),
        ("controller --kubernetes", "--pod-name"),
        ("controller --kubernetes --pod-name p --config-dir a --tokens b --state c", "--config-dir"),
        ("controller --kubernetes --pod-name p --tokens b", "--tokens"),
        ("controller --kubernetes --pod-name p --state c", "--state"),
        ("controller --config-dir a --tokens b --state c --root-secret s", "--root-secret"),
        ("controller --config-dir a --tokens b --state c --pod-name p", "--pod-name"),
        ("controller --kubernetes --pod-name p --cluster-domain cluster.local.", "--cluster-domain"),
        ("controller --kubernetes --pod-name p --cluster-domain not/a/domain", "--cluster-domain"),
        ("controller --kubernetes --pod-name p --trust-domain Not_A_Domain", "--trust-domain"),
    ] {
        let error = parse(line).expect_err(line);
        assert!(error.contains(named), "{line}: {error}");
    }
}
