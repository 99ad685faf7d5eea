//! What is due now: one step at a time, each safe to be the last one that its maker lived to take.
//!
//! It must not know who asks; only the holder of the lease may take the steps of [`decide`].

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    CertificateError, Leaf, State, bundle,
    state::{Next, Previous, after_leaves},
};

/// How long after its publication an authority may sign: by then every API server has heard of it.
pub const PROPAGATION: Duration = Duration::from_mins(1);
/// How often things are looked at although nothing is due: clocks jump, and a machine may have slept.
const RECHECK: Duration = Duration::from_mins(1);

/// What the holder of the lease does next.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Write this into the Secret, unless it has changed since it was read.
    Store(Box<State>),
    /// Write this bundle into every webhook configuration.
    Publish(String),
    /// Nothing until then.
    Wait(Timestamp),
}

/// The next step. `stored` is what the Secret holds, if that can be used; `published` the bundle of each webhook entry,
/// empty where there is none.
pub fn decide(
    name: &str,
    stored: Option<&State>,
    published: &[String],
    now: Timestamp,
) -> Result<Step, CertificateError> {
    let lives = |state: &&State| state.current().is_none_or(|current| current.validity().holds(now));
    let Some(state) = stored.filter(lives) else {
        return Ok(Step::Store(Box::new(State::first(name, &trusted(stored, published), now)?)));
    };
    if state.previous.iter().any(|previous| previous.until <= now) {
        let previous = state.previous.iter().filter(|previous| previous.until > now).cloned().collect();
        return Ok(store(State { previous, ..state.clone() }));
    }
    let bundle = state.bundle();
    if published.iter().any(|found| !bundle::same(found, &bundle)) {
        return Ok(Step::Publish(bundle));
    }
    let renewal = state.current().map_or(now, |current| current.validity().renewal());
    let due = match &state.next {
        None if now >= renewal => return prepared(name, state, now).map(store),
        None => renewal,
        // A time that has not come yet was another clock's.
        Some(Next { authority, published }) => match published.filter(|published| *published <= now) {
            None => {
                let next = Some(Next { authority: authority.clone(), published: Some(now) });
                return Ok(store(State { next, ..state.clone() }));
            }
            Some(published) => {
                // Where nothing was trusted before, nobody could be cut off.
                let is_first = state.current().is_none() && state.previous.is_empty();
                let pause = if is_first { Duration::ZERO } else { PROPAGATION };
                let ready = published.saturating_add(pause).unwrap_or(now);
                if now >= ready {
                    return Ok(store(promoted(state, authority.clone(), now)));
                }
                ready
            }
        },
    };
    let expiry = state.previous.iter().map(|previous| previous.until);
    let soon = now.saturating_add(RECHECK).unwrap_or(now);
    Ok(Step::Wait(expiry.fold(due, Timestamp::min).min(soon)))
}

fn store(state: State) -> Step {
    Step::Store(Box::new(state))
}

/// Every certificate that the API server trusts now.
fn trusted(stored: Option<&State>, published: &[String]) -> Vec<String> {
    let stored = stored.map(State::bundle);
    let bundles = published.iter().chain(&stored);
    bundles.flat_map(|bundle| bundle.split_inclusive("-----END CERTIFICATE-----\n")).map(str::to_owned).collect()
}

fn prepared(name: &str, state: &State, now: Timestamp) -> Result<State, CertificateError> {
    let next = Next { authority: crate::Authority::issue(name, now)?, published: None };
    Ok(State { next: Some(next), ..state.clone() })
}

fn promoted(state: &State, next: crate::Authority, now: Timestamp) -> State {
    let mut previous = state.previous.clone();
    // A replica that has not heard of this yet may sign with the old one for a moment more.
    let until = after_leaves(now).saturating_add(PROPAGATION * 10).unwrap_or(Timestamp::MAX);
    previous.extend(state.current().map(|old| Previous { certificate: old.certificate().to_owned(), until }));
    State { current: Some(next), next: None, previous }
}

/// What a replica does about its own leaf.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LeafStep {
    /// Have one signed by the current authority.
    Issue,
    /// Serve with what it has, and look again then.
    Keep(Timestamp),
    /// It cannot serve yet: no authority that the API server trusts can sign. Look again then.
    NotYet(Timestamp),
}

/// What a replica does. It is never without a good leaf once it had one: a new authority signs only after it was published
/// everywhere.
pub fn decide_leaf(leaf: Option<&Leaf>, stored: Option<&State>, published: &[String], now: Timestamp) -> LeafStep {
    let soon = now.saturating_add(RECHECK).unwrap_or(now);
    let signer = stored.and_then(State::current).filter(|authority| {
        let everywhere = published.iter().all(|found| bundle::holds(found, authority.certificate()));
        authority.validity().holds(now) && everywhere && !published.is_empty()
    });
    let good = leaf.filter(|leaf| leaf.validity().holds(now));
    match (good, signer) {
        (Some(leaf), Some(signer)) if leaf.authority() == signer.certificate() && now < leaf.validity().renewal() => {
            LeafStep::Keep(leaf.validity().renewal().min(soon))
        }
        (_, Some(_)) => LeafStep::Issue,
        (Some(_), None) => LeafStep::Keep(soon),
        (None, None) => LeafStep::NotYet(soon),
    }
}
