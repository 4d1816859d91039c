//! Closes connections whose chunked body was not read to its end. Never reads what nobody wants.
//!
//! actix-http 3.20 closes such a connection where the body's length was declared; a chunked body whose payload was
//! dropped it reads and discards to its end, however far away that is, to keep the connection. It does not if the payload
//! is still there when the response is out, so the response holds it.

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _};
use bytes::Bytes;
use futures::Stream;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

type Kept = Rc<RefCell<Payload>>;

/// What handlers read in the payload's stead.
struct Reads(Kept);

impl Stream for Reads {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

/// A response's body that keeps the request's payload.
struct Keeps {
    body: BoxBody,
    _payload: Kept,
}

impl MessageBody for Keeps {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

/// Middleware: the response to a chunked request keeps its payload.
///
/// # Errors
/// Those of the handler.
pub async fn close(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if !request.chunked().unwrap_or(false) {
        return Ok(next.call(request).await?.map_into_boxed_body());
    }
    let kept = Rc::new(RefCell::new(request.take_payload()));
    let reads: Pin<Box<dyn Stream<Item = _>>> = Box::pin(Reads(Rc::clone(&kept)));
    request.set_payload(reads.into());
    let response = next.call(request).await?.map_into_boxed_body();
    Ok(response.map_body(|_, body| BoxBody::new(Keeps { body, _payload: kept })))
}
