//! Decides which step of a rotation is due. It returns one step at a time, and the rotation is consistent even if the
//! process dies after any step. Only the holder of the Lease may take the steps of [`decide`].

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    CertificateError, Leaf, State, bundle,
    state::{Next, Previous, after_leaves},
};

/// The time after its publication from which an authority may sign. By then every API server uses the new bundle.
pub const PROPAGATION: Duration = Duration::from_mins(1);
/// The interval at which the state is checked even if nothing is due, because clocks jump and a machine may have slept.
const RECHECK: Duration = Duration::from_mins(1);

/// The next step of the Lease's holder.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Write this state to the Secret, unless the Secret has changed since it was read.
    Store(Box<State>),
    /// Write this bundle to every webhook configuration.
    Publish(String),
    /// Nothing is due until this time.
    Wait(Timestamp),
}

/// Returns the next step. `stored`: the state in the Secret, if it is usable. `published`: the bundle of each webhook
/// entry, empty for an entry without one.
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
        // A publication time in the future was set by another clock, and is ignored.
        Some(Next { authority, published }) => match published.filter(|published| *published <= now) {
            None => {
                let next = Some(Next { authority: authority.clone(), published: Some(now) });
                return Ok(store(State { next, ..state.clone() }));
            }
            Some(published) => {
                // Without an earlier authority there are no connections that could break.
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

/// All certificates that the API server trusts now.
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
    // A replica that has not read the new state yet may sign with the old authority for a short time.
    let until = after_leaves(now).saturating_add(PROPAGATION * 10).unwrap_or(Timestamp::MAX);
    previous.extend(state.current().map(|old| Previous { certificate: old.certificate().to_owned(), until }));
    State { current: Some(next), next: None, previous }
}

/// The next step of a replica for its own leaf.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LeafStep {
    /// Issue a leaf from the current authority.
    Issue,
    /// Serve with the existing leaf, and check again at this time.
    Keep(Timestamp),
    /// The replica cannot serve yet, because no trusted authority can sign. Check again at this time.
    NotYet(Timestamp),
}

/// Returns the next step of a replica. Once a replica has had a valid leaf it always has one, because a new authority
/// signs only after its publication in every bundle.
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
