//! Simulates a cluster: an API server that sees bundles late, replicas that die, and clocks that jump. At every moment
//! each replica that serves must be trusted.

use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ECDSA_P256_SHA256};

use super::*;
use crate::LEAF_LIFETIME;

const SERVICE: &str = "stowaway-webhook.stowaway-system.svc";
const START: i64 = 1_800_000_000;
/// An API server uses a changed bundle within this time.
const LAG: i64 = 30;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn names() -> Vec<String> {
    vec![SERVICE.to_owned()]
}

/// The verification that the API server does at each new connection.
fn is_trusted(leaf: &Leaf, bundle: &str, now: Timestamp) -> Result<(), webpki::Error> {
    let bundle: Vec<_> = CertificateDer::pem_slice_iter(bundle.as_bytes()).map(Result::unwrap).collect();
    let anchors: Vec<_> = bundle.iter().map(|certificate| anchor_from_trusted_cert(certificate).unwrap()).collect();
    let certificate = CertificateDer::from(leaf.certificate());
    let certificate = EndEntityCert::try_from(&certificate)?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().unsigned_abs()));
    let algorithms = [ECDSA_P256_SHA256];
    certificate.verify_for_usage(&algorithms, &anchors, &[], time, KeyUsage::server_auth(), None, None)?;
    certificate.verify_is_valid_for_subject_name(&ServerName::try_from(SERVICE).unwrap())
}

/// Pseudo-random numbers, reproducible by the seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        // Knuth's MMIX generator; its high bits are good enough.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

struct World {
    now: i64,
    chance: Chance,
    secret: Option<std::collections::BTreeMap<String, Vec<u8>>>,
    /// The bundle of two webhook entries, and since when; until [`LAG`] has passed the API server uses the previous
    /// one.
    bundles: [Vec<(i64, String)>; 2],
    leaves: [Option<Leaf>; 3],
    rotations: u32,
    /// Since when the API server trusts the first authority.
    trusted_since: Option<i64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let bundles = [vec![(0, String::new())], vec![(0, String::new())]];
        Self {
            now: START,
            chance: Chance(seed),
            secret: None,
            bundles,
            leaves: [None, None, None],
            rotations: 0,
            trusted_since: None,
        }
    }

    fn stored(&self) -> Option<State> {
        State::from_data(self.secret.as_ref()?).ok()
    }

    fn published(&self) -> Vec<String> {
        self.bundles.iter().map(|history| history.last().unwrap().1.clone()).collect()
    }

    /// One round of the Lease's holder, which may die during its step.
    fn lead(&mut self) {
        let stored = self.stored();
        match decide("stowaway", stored.as_ref(), &self.published(), at(self.now)).unwrap() {
            Step::Store(state) => {
                let old = stored.and_then(|old| old.current);
                if old != state.current && state.current.is_some() {
                    self.rotations += u32::from(old.is_some());
                    self.trusted_since.get_or_insert(self.now + LAG);
                }
                self.secret = Some(state.to_data().unwrap());
            }
            Step::Publish(bundle) => {
                for index in 0..self.bundles.len() {
                    if self.chance.below(4) == 0 {
                        return;
                    }
                    self.bundles[index].push((self.now, bundle.clone()));
                }
            }
            Step::Wait(until) => assert!(until > at(self.now), "it waits for a time in the past"),
        }
    }

    fn serve(&mut self, replica: usize) {
        let (stored, now) = (self.stored(), at(self.now));
        match decide_leaf(self.leaves[replica].as_ref(), stored.as_ref(), &self.published(), now) {
            LeafStep::Issue => {
                let leaf = stored.unwrap().current().unwrap().issue_leaf(&names(), now).unwrap();
                self.leaves[replica] = Some(leaf);
            }
            LeafStep::Keep(until) => assert!(until > now && self.leaves[replica].is_some()),
            LeafStep::NotYet(_) => self.leaves[replica] = None,
        }
    }

    /// Every replica that serves is trusted by every API server, whichever bundle it has seen.
    fn check(&self) {
        if self.trusted_since.is_none_or(|since| self.now < since) {
            return;
        }
        for history in &self.bundles {
            let known = history.iter().rposition(|(since, _)| since + LAG <= self.now).unwrap_or(0);
            for (_, bundle) in &history[known..] {
                for leaf in self.leaves.iter().flatten() {
                    is_trusted(leaf, bundle, at(self.now)).unwrap();
                }
            }
        }
    }
}

#[test]
fn every_new_connection_is_trusted_through_rotations_and_deaths() {
    for seed in 0..12 {
        let mut world = World::new(seed);
        let mut steps = 0;
        while world.rotations < 3 {
            steps += 1;
            assert!(steps < 100_000, "the rotation makes no progress");
            // Mostly a minute, so that the steps of a rotation are seen one by one; days if no rotation is in progress.
            let is_quiet = world.stored().is_some_and(|state| state.next.is_none());
            let served = world.leaves.iter().all(Option::is_some);
            world.now += match world.chance.below(10) {
                0..9 if !is_quiet || !served => i64::try_from(world.chance.below(60)).unwrap() + LAG,
                _ => i64::try_from(world.chance.below(5 * 24 * 3600)).unwrap() + LAG,
            };
            if world.chance.below(5) > 0 {
                world.lead();
            }
            for replica in 0..world.leaves.len() {
                // A replica that was replaced starts without a leaf.
                if world.chance.below(50) == 0 {
                    world.leaves[replica] = None;
                }
                world.serve(replica);
            }
            world.check();
        }
        assert!(world.leaves.iter().any(Option::is_some), "no replica serves");
    }
}

/// A world in which all replicas serve.
fn settled() -> World {
    let mut world = World::new(1);
    while world.trusted_since.is_none_or(|since| world.now < since) || world.leaves.iter().any(Option::is_none) {
        world.now += LAG;
        world.lead();
        (0..3).for_each(|replica| world.serve(replica));
    }
    world.check();
    world
}

#[test]
fn deleted_or_damaged_secret_breaks_nothing() {
    for damage in [None, Some(b"no key".to_vec())] {
        let mut world = settled();
        world.secret = damage.map(|damage| {
            let mut data = world.secret.clone().unwrap();
            data.insert("ca.key".to_owned(), damage);
            data
        });
        for _ in 0..20 {
            world.now += LAG;
            world.lead();
            (0..3).for_each(|replica| world.serve(replica));
            world.check();
        }
        let current = world.stored().unwrap().current().unwrap().certificate().to_owned();
        assert!(world.leaves.iter().flatten().all(|leaf| leaf.authority() == current), "all use the new one");
    }
}

#[test]
fn foreign_bundle_is_replaced_and_old_authorities_are_removed() {
    let mut world = settled();
    world.bundles[0].push((world.now, String::new()));
    assert!(matches!(
        decide("stowaway", world.stored().as_ref(), &world.published(), at(world.now)).unwrap(),
        Step::Publish(_)
    ));
    let mut state = world.stored().unwrap();
    let other = State::first("stowaway", &[], at(world.now)).unwrap();
    let other = other.next.unwrap().authority;
    state.previous.push(Previous { certificate: other.certificate().to_owned(), until: at(world.now + 5) });
    let Step::Store(later) = decide("stowaway", Some(&state), &[state.bundle()], at(world.now + 5)).unwrap() else {
        panic!("an expired authority is kept")
    };
    assert!(!bundle::holds(&later.bundle(), other.certificate()));
}

#[test]
fn leaf_is_renewed_early_and_after_a_clock_that_jumped() {
    let world = settled();
    let (stored, published) = (world.stored(), world.published());
    let leaf = |now| stored.as_ref().unwrap().current().unwrap().issue_leaf(&names(), at(now)).unwrap();
    let life = i64::try_from(LEAF_LIFETIME.as_secs()).unwrap();
    let step = |leaf: &Leaf, now| decide_leaf(Some(leaf), stored.as_ref(), &published, at(now));
    assert!(matches!(step(&leaf(world.now), world.now + life / 2), LeafStep::Keep(_)));
    assert_eq!(step(&leaf(world.now), world.now + life * 3 / 4), LeafStep::Issue);
    assert_eq!(step(&leaf(world.now + 7200), world.now), LeafStep::Issue, "it is not valid yet");
}

#[test]
fn no_replica_signs_before_every_bundle_contains_the_authority() {
    let state = settled().stored().unwrap();
    let not_yet = |published: &[String]| decide_leaf(None, Some(&state), published, at(START + 600));
    assert!(matches!(not_yet(&[]), LeafStep::NotYet(_)));
    assert!(matches!(not_yet(&[state.bundle(), String::new()]), LeafStep::NotYet(_)));
    assert_eq!(not_yet(&[state.bundle(), state.bundle()]), LeafStep::Issue);
}

#[test]
fn keys_are_in_no_debug_output_and_pairs_must_match() {
    let (state, other) = (settled().stored().unwrap(), settled().stored().unwrap());
    let leaf = state.current().unwrap().issue_leaf(&names(), at(START)).unwrap();
    assert!(!format!("{state:?} {leaf:?}").contains("PRIVATE"));
    let mixed = crate::Authority::parse(state.current().unwrap().certificate(), other.current().unwrap().key());
    assert!(matches!(mixed, Err(CertificateError::Mismatch(_))));
    assert_eq!(State::from_data(&state.to_data().unwrap()).unwrap(), state);
}
