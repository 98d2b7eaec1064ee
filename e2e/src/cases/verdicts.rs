//! Who may call what, and that the answer doesn't depend on which proxy gives it: the same verdicts with and without
//! sidecars, nothing to be gained by a forged claim, no plaintext where there must be none.

use crate::Case;

mod custody;
mod equality;
mod forgery;
mod identity;
mod peer;
mod plaintext;
mod policy;
mod ports;
mod probes;
mod question;
mod standing;

pub(super) const CASES: &[Case] = &[
    Case { name: "verdicts are the same whichever proxy gives them", run: equality::sidecars_come_and_go },
    Case { name: "verdicts are the same for pods without a sidecar", run: equality::no_sidecar_at_all },
    Case { name: "verdicts go by the certificate, never by a header", run: forgery::headers_claim_in_vain },
    Case {
        name: "verdicts: nobody speaks for another pod or reaches a proxy's port",
        run: forgery::tunnels_claim_in_vain,
    },
    Case { name: "verdicts: a token gets its own identity and its own policy alone", run: identity::own_alone },
    Case { name: "verdicts: open connections are judged again when policies change", run: standing::judged_again },
    Case { name: "verdicts: a shared proxy never has a pod's key", run: custody::keys_stay },
    Case { name: "verdicts: the mesh listens on the ports of its table and on no other", run: ports::of_the_table },
    Case { name: "verdicts: strict mTLS refuses plaintext on every port", run: plaintext::strict_refuses },
    Case { name: "verdicts: the platform's probes are let in, and nothing with them", run: probes::let_in },
    Case {
        name: "verdicts: the platform's probes are let in where there is no sidecar",
        run: probes::let_in_without_sidecar,
    },
    Case { name: "verdicts: nothing between meshed pods is plaintext", run: plaintext::nothing_on_the_wire },
];
