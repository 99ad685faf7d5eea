//! Polynomials over the field of two elements, by which content is cut into chunks. A bit of a number is the
//! coefficient of one power.
//!
//! Each repository has a random irreducible polynomial of degree 53, as in restic, so that the lengths of its chunks do
//! not reveal which known content it has. Source: restic's design document, section "Backups and Deduplication";
//! Michael O. Rabin, "Fingerprinting by Random Polynomials" (1981).

use rand::RngExt;
use rustic_cdc::Polynom;

/// The degree of restic's polynomials, a prime number.
const DEGREE: u32 = 53;

/// Returns a random irreducible polynomial of degree 53. One in 53 polynomials is irreducible.
pub(super) fn random() -> u64 {
    loop {
        // A polynomial without its lowest coefficient is divisible by x.
        let polynomial = rand::rng().random::<u64>() & ((1 << DEGREE) - 1) | 1 << DEGREE | 1;
        if is_irreducible(polynomial) {
            return polynomial;
        }
    }
}

/// Whether a polynomial, whose degree is an odd prime number `p`, has no divisor.
///
/// `x^(2^p) - x` is the product of all irreducible polynomials of the degrees 1 and `p`. A polynomial which divides it
/// is one of these, or the product of different ones. There are two of degree 1, so no product of them has the degree
/// `p`.
fn is_irreducible(polynomial: u64) -> bool {
    const X: u64 = 0b10;
    let power = (0..polynomial.degree()).fold(X, |power, _| times(power, power, polynomial));
    power == X
}

/// Multiplies two polynomials whose degrees are below that of `modulus`, and returns the remainder.
fn times(one: u64, other: u64, modulus: u64) -> u64 {
    (0..modulus.degree()).rev().fold(0, |product, power| {
        let product = (product << 1).modulo(&modulus);
        if other >> power & 1 == 1 { product ^ one } else { product }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::chunker::Chunker;

    #[test]
    fn polynomials_of_restic_are_irreducible_and_their_neighbours_are_not() {
        // The first is that of the tests of restic's library `chunker`, the others are of new repositories.
        for polynomial in
            [0x3D_A335_8B4D_C173, 0x30_641E_895B_5ED9, 0x3C_D637_E844_DE31, 0x25_0E46_342D_5A85, 0x20_9A5F_3BD6_A541]
        {
            assert!(is_irreducible(polynomial), "{polynomial:x}");
            // With an even number of terms a polynomial is divisible by x + 1.
            assert!(!is_irreducible(polynomial ^ 2), "{polynomial:x}");
            assert!(!is_irreducible(polynomial ^ 1), "{polynomial:x}");
        }
    }

    #[test]
    fn as_many_polynomials_are_irreducible_as_there_are_without_a_divisor() {
        for degree in [3, 5, 7, 11] {
            let all = 1_u64 << degree..2 << degree;
            let divides = |divisor: u64, polynomial: u64| polynomial.modulo(&divisor) == 0;
            let is_prime = |polynomial: u64| (2..1 << (degree / 2 + 1)).all(|divisor| !divides(divisor, polynomial));
            for polynomial in all {
                assert_eq!(is_irreducible(polynomial), is_prime(polynomial), "{polynomial:b}");
            }
        }
    }

    #[test]
    fn new_polynomials_differ_and_can_be_used() {
        let found: BTreeSet<u64> = (0..20).map(|_| random()).collect();
        assert_eq!(found.len(), 20);
        for polynomial in found {
            assert_eq!(polynomial.degree(), 53);
            assert!(Chunker::new(polynomial).is_some());
        }
    }
}
