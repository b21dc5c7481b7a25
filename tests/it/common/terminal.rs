//! The check of every terminal message: it converts to its type, and its JSON is that type's and
//! follows the schema.

use std::sync::LazyLock;

use gstqwenvl::message::{DESCRIPTION, DROPPED, Description, Dropped, JSON, MessageError, Window};
use serde::Serialize;
use serde_json::Value;

use super::schema;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let schema = include_str!("../../../docs/messages.schema.json");
    serde_json::from_str(schema).unwrap()
});

/// A message that ends a window.
#[derive(Clone, Debug)]
pub enum Terminal {
    Description(Description),
    Dropped(Dropped),
}

impl Terminal {
    /// The terminal message in `structure`; `None` for another structure, an error for a faulty
    /// one.
    pub fn read(structure: &gst::StructureRef) -> Result<Option<Self>, String> {
        match structure.name().as_str() {
            DESCRIPTION => checked(structure).map(|message| Some(Self::Description(message))),
            DROPPED => checked(structure).map(|message| Some(Self::Dropped(message))),
            _ => Ok(None),
        }
    }

    pub fn window(&self) -> &Window {
        match self {
            Self::Description(description) => &description.window,
            Self::Dropped(dropped) => &dropped.window,
        }
    }
}

fn checked<T>(structure: &gst::StructureRef) -> Result<T, String>
where
    T: for<'a> TryFrom<&'a gst::StructureRef, Error = MessageError> + Serialize,
{
    let wrong = |what: &dyn std::fmt::Display| format!("{what}: {structure}");
    let message = T::try_from(structure).map_err(|error| wrong(&error))?;
    let line: &str = structure.get(JSON).map_err(|error| wrong(&error))?;
    let json: Value = serde_json::from_str(line).map_err(|error| wrong(&error))?;
    schema::verify(&SCHEMA, &json).map_err(|why| wrong(&why))?;
    match serde_json::to_value(&message) {
        Ok(typed) if typed == json => Ok(message),
        typed => Err(wrong(&format!("as JSON it is {typed:?}"))),
    }
}
