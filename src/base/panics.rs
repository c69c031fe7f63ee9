//! Calls of code that panics on damaged data, where it should return an error.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Calls a function, and returns the message of a panic in it. What the function had under way must not be used again
/// then.
///
/// # Errors
/// It panicked.
pub fn catch<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let before = IS_GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    IS_GUARDED.set(before);
    result.map_err(|panic| message(&*panic).to_owned())
}

/// Whether a panic of this thread is one that is [caught](catch).
pub fn is_guarded() -> bool {
    IS_GUARDED.get()
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_returned_with_its_message() {
        let zero = std::hint::black_box(0);
        assert_eq!(catch(|| 1 / zero), Err("attempt to divide by zero".to_owned()));
        assert_eq!(
            catch(|| std::panic::panic_any(7)),
            Err::<(), _>("a panic without a message".to_owned())
        );
        let inner = catch(|| {
            assert!(catch(|| panic!("inner")).is_err() && is_guarded());
            7
        });
        assert_eq!(inner, Ok(7));
        assert!(!is_guarded());
    }
}
