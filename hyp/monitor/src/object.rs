//! Objects that live in pages which the host has donated to hyp.

use abi::{PAGE_SIZE, Pfn};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// Access to donated pages.
///
/// # Safety
/// For `count` pages from `first` that are hyp's, in the ledger and in hyp's stage 1, `object_memory` must return an
/// address, aligned to 4 KiB, at which all of these bytes may be read and written by every CPU, and must return the
/// same address each time, for as long as the pages stay hyp's.
pub unsafe trait ObjectMemory {
    /// Where hyp reaches the pages.
    fn object_memory(&self, first: Pfn, count: u64) -> NonNull<u8>;
}

/// A value that fills donated pages. It is never dropped: whoever gives the pages back forgets the `Object`, and the
/// pages are wiped.
#[derive(Debug)]
pub struct Object<T> {
    value: NonNull<T>,
    first: Pfn,
}

// SAFETY: An `Object` owns its value as a `Box` does, so it may go to another CPU exactly if the value may. Whoever uses a
// pointer that it gave out makes sure that the `Object` is not borrowed mutably meanwhile.
unsafe impl<T: Send> Send for Object<T> {}
// SAFETY: A shared `Object` gives out shared references to the value and nothing else.
unsafe impl<T: Sync> Sync for Object<T> {}

impl<T> Object<T> {
    /// Pages that a value takes.
    pub const PAGES: u64 = (size_of::<T>() as u64).div_ceil(PAGE_SIZE);

    /// Puts a value into [`PAGES`](Self::PAGES) pages from `first`.
    ///
    /// # Safety
    /// The pages are hyp's and nothing else is in them. Whoever gives them back has the only `Object` for them, borrows
    /// nothing from it, and uses it no more.
    pub unsafe fn place<M: ObjectMemory + ?Sized>(memory: &M, first: Pfn, value: T) -> Self {
        const { assert!(align_of::<T>() as u64 <= PAGE_SIZE) };
        let place = memory.object_memory(first, Self::PAGES).cast::<T>();
        // SAFETY: By this function's contract the pages are hyp's and otherwise unused, so by the contract of
        // `ObjectMemory` the address may be written for `PAGES` pages, which `T` fits into, and is aligned for `T`,
        // whose alignment is no more than a page's.
        unsafe { place.write(value) };
        Self { value: place, first }
    }

    /// Where the value is. A reference made of it is in use only while the `Object` stays where pages are hyp's, and is not
    /// borrowed mutably.
    pub const fn pointer(&self) -> NonNull<T> {
        self.value
    }

    /// The first of the pages that it is in.
    pub const fn first_page(&self) -> Pfn {
        self.first
    }
}

impl<T> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `place` wrote a `T` here, by its contract the pages are hyp's for as long as the `Object` is used, and
        // all writes to the value go through `deref_mut` or its own interior mutability.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for Object<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; and this is the only `Object` for the value and borrowed mutably, so that no
        // reference that it gave out is left, nor is one in use that was made of `pointer`, by the contract of that.
        unsafe { self.value.as_mut() }
    }
}
