//! Reading a payload that somebody else defines: what is absent or of another type is `None`, never an error.

use serde_json::Value;

/// The string at `pointer` (RFC 6901).
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

/// The string at `pointer`, owned.
pub(super) fn owned(value: &Value, pointer: &str) -> Option<String> {
    text(value, pointer).map(str::to_owned)
}

/// The string at `pointer`, which the protocol promises.
pub(super) fn required<'a>(value: &'a Value, pointer: &str) -> Result<&'a str, String> {
    text(value, pointer).ok_or_else(|| format!("no string at {pointer}"))
}

/// The elements of the array at `pointer`; none if there is no array.
pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The whole number at `pointer`.
pub(super) fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer)?.as_u64()
}
