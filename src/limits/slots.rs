//! A map from numbers to values that is cheap to copy.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Numbers per piece.
const PIECE: u32 = 64;

/// Values by number. Numbers may be sparse, but neighbours are stored together; a copy shares all pieces that do not
/// change afterwards.
#[derive(Clone, Debug)]
pub(super) struct Slots<T> {
    pieces: BTreeMap<u32, Arc<Piece<T>>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Piece<T> {
    values: [Option<T>; PIECE as usize],
    len: u32,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { pieces: BTreeMap::new(), len: 0 }
    }
}

fn place(number: u32) -> (u32, usize) {
    (number / PIECE, (number % PIECE) as usize)
}

impl<T: Clone> Slots<T> {
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let (piece, at) = place(number);
        self.pieces.get(&piece)?.values[at].as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (piece, at) = place(number);
        Arc::make_mut(self.pieces.get_mut(&piece)?).values[at].as_mut()
    }

    pub(super) fn insert(&mut self, number: u32, value: T) {
        let (piece, at) = place(number);
        let empty = || Arc::new(Piece { values: [const { None }; PIECE as usize], len: 0 });
        let piece = Arc::make_mut(self.pieces.entry(piece).or_insert_with(empty));
        if piece.values[at].replace(value).is_none() {
            piece.len += 1;
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let (at_piece, at) = place(number);
        let piece = Arc::make_mut(self.pieces.get_mut(&at_piece)?);
        let value = piece.values[at].take()?;
        piece.len -= 1;
        self.len -= 1;
        if piece.len == 0 {
            self.pieces.remove(&at_piece);
        }
        Some(value)
    }

    /// Returns the number of values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns all values, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.pieces.iter().flat_map(|(piece, values)| {
            let numbers = piece * PIECE..;
            numbers
                .zip(&values.values)
                .filter_map(|(number, value)| Some((number, value.as_ref()?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_equal_a_map_and_copies_stay_unchanged(
            steps in prop::collection::vec((0..300_u32, any::<bool>(), any::<bool>()), 0..200),
        ) {
            let (mut slots, mut map) = (Slots::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for (step, (number, adds, copies_now)) in steps.into_iter().enumerate() {
                if adds {
                    slots.insert(number, step);
                    map.insert(number, step);
                } else {
                    prop_assert_eq!(slots.get(number), map.get(&number));
                    prop_assert_eq!(slots.remove(number), map.remove(&number));
                }
                if let Some(value) = slots.get_mut(number) {
                    *value += 1;
                    *map.get_mut(&number).expect("it is there") += 1;
                }
                if copies_now {
                    copies.push((slots.clone(), map.clone()));
                }
            }
            copies.push((slots, map));
            for (slots, map) in copies {
                prop_assert_eq!(slots.len(), map.len());
                prop_assert!(slots.iter().eq(map.iter().map(|(number, value)| (*number, value))));
                let pieces: BTreeSet<u32> = map.keys().map(|number| number / PIECE).collect();
                prop_assert_eq!(slots.pieces.len(), pieces.len());
            }
        }
    }
}
