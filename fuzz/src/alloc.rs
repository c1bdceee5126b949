//! An allocator that ends the program where an input makes it take more memory
//! than any input should. libFuzzer's own `-malloc_limit_mb` needs a sanitizer.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most bytes that may be allocated at once.
const LIMIT: usize = 64 * 1024 * 1024;

static USED: AtomicUsize = AtomicUsize::new(0);

/// See the module.
pub struct Bounded;

fn take(bytes: usize) {
    let used = USED.fetch_add(bytes, Ordering::Relaxed);
    if used.saturating_add(bytes) > LIMIT {
        // Room for the message.
        USED.store(0, Ordering::Relaxed);
        eprintln!("more than {LIMIT} bytes are allocated: {bytes} on top of {used}");
        std::process::abort();
    }
}

// SAFETY: all is left to the system's allocator; only the sizes are counted.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(block, layout) }
    }
}

/// All targets have it.
#[global_allocator]
static ALLOCATOR: Bounded = Bounded;
