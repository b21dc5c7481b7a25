//! Reading fields of a structure, with errors that name them.

use gst::glib;
use gst::glib::value::FromValue;
use gst::prelude::*;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};

/// Why a structure is not the message that it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is another message.
    #[error("{found} is not {wanted}")]
    Name {
        /// Name of the structure.
        found: String,
        /// Name of the message.
        wanted: &'static str,
    },
    /// A field that is always there is not.
    #[error("the field {field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field has another type.
    #[error("the field {field} is of type {found}, not {wanted}")]
    Type {
        /// The field.
        field: &'static str,
        /// GLib's name of its type.
        found: String,
        /// The right type.
        wanted: &'static str,
    },
    /// A field has a value that this version does not know.
    #[error("the field {field} has the unknown value {found}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
    },
}

/// A type that a field can have.
pub(super) trait Kind: for<'a> FromValue<'a> + StaticType {}

impl<T: for<'a> FromValue<'a> + StaticType> Kind for T {}

/// The fields of a structure that has the right name.
pub(super) struct Fields<'a>(&'a gst::StructureRef);

impl<'a> Fields<'a> {
    pub(super) fn of(
        structure: &'a gst::StructureRef,
        wanted: &'static str,
    ) -> Result<Self, MessageError> {
        if structure.name() != wanted {
            let found = structure.name().to_string();
            return Err(MessageError::Name { found, wanted });
        }
        Ok(Self(structure))
    }

    pub(super) fn get<T: Kind>(&self, field: &'static str) -> Result<T, MessageError> {
        self.optional(field)?.ok_or(MessageError::Missing { field })
    }

    pub(super) fn optional<T: Kind>(&self, field: &'static str) -> Result<Option<T>, MessageError> {
        let value = self.0.value(field).ok();
        value.map(|value| read(field, value)).transpose()
    }

    pub(super) fn list<T: Kind>(&self, field: &'static str) -> Result<Vec<T>, MessageError> {
        let array: gst::Array = self.get(field)?;
        array.iter().map(|value| read(field, value)).collect()
    }

    pub(super) fn array<T: Kind, const N: usize>(
        &self,
        field: &'static str,
    ) -> Result<[T; N], MessageError> {
        let list = self.list(field)?;
        let wrong = |list: Vec<T>| MessageError::Value {
            field,
            found: format!("of {} numbers", list.len()),
        };
        list.try_into().map_err(wrong)
    }

    /// A string that stands for a variant of an enum, by the names that serde has for them.
    pub(super) fn choice<T: for<'de> Deserialize<'de>>(
        &self,
        field: &'static str,
    ) -> Result<T, MessageError> {
        let found: String = self.get(field)?;
        let name: StrDeserializer<'_, Error> = found.as_str().into_deserializer();
        T::deserialize(name).map_err(|_| MessageError::Value { field, found })
    }
}

fn read<T: Kind>(field: &'static str, value: &glib::Value) -> Result<T, MessageError> {
    value.get().map_err(|_| {
        if value.is_type(T::static_type()) {
            // A NULL.
            return MessageError::Missing { field };
        }
        MessageError::Type {
            field,
            found: value.type_().name().to_owned(),
            wanted: T::static_type().name(),
        }
    })
}
