//! Whether a certificate is believed, as [`super::certificate`] says, at both ends of a link.

use std::{fmt, sync::Arc, time::Duration};

use clawstead_terms::Millis;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::certificate::{CertificateError, Keys, Presented, SKEW_MS};

static ALGORITHMS: WebPkiSupportedAlgorithms =
    WebPkiSupportedAlgorithms { all: &[webpki::ring::ED25519], mapping: &[(SignatureScheme::ED25519, &[webpki::ring::ED25519])] };

/// Believes certificates by the key ring; the same for both ends.
pub struct Verifier {
    keys: Arc<dyn Keys>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// Asks `keys` anew for every certificate.
    #[must_use]
    pub fn new(keys: Arc<dyn Keys>) -> Self {
        Self { keys }
    }

    /// Whose the certificate is, when it is believed.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self, certificate: &CertificateDer<'_>) -> Result<Presented, CertificateError> {
        let presented = Presented::read(certificate)?;
        presented.check_key(&*self.keys)?;
        let invalid = |why: webpki::Error| CertificateError::Invalid { gateway: presented.gateway.clone(), why: why.to_string() };
        let read = webpki::EndEntityCert::try_from(certificate).map_err(invalid)?;
        // The key is known to be right, so the certificate is its own anchor: what is left are signature and times.
        let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(invalid)?;
        let wall = self.keys.now().wall;
        let holds = |at: Millis| {
            let at = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(at.0).unwrap_or(0)));
            let usage = webpki::KeyUsage::client_auth();
            read.verify_for_usage(ALGORITHMS.all, std::slice::from_ref(&anchor), &[], at, usage, None, None).map(|_| ())
        };
        let held = match holds(wall) {
            Err(webpki::Error::CertNotValidYet { .. }) => holds(wall.plus(SKEW_MS)),
            Err(webpki::Error::CertExpired { .. }) => holds(wall.plus(-SKEW_MS)),
            other => other,
        };
        held.map_err(invalid)?;
        Ok(presented)
    }
}

fn refused(err: CertificateError) -> TlsError {
    TlsError::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(Arc::new(err))))
}

fn no_tls12() -> Result<HandshakeSignatureValid, TlsError> {
    Err(TlsError::General("links speak TLS 1.3 only".into()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        called: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let presented = self.check(certificate).map_err(refused)?;
        let called = called.to_str();
        let wanted = called.split('.').next().unwrap_or_default();
        if presented.gateway != wanted {
            return Err(refused(CertificateError::OtherGateway { wanted: wanted.to_owned(), theirs: presented.gateway }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, TlsError> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, dss, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(&self, certificate: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, TlsError> {
        self.check(certificate).map(|_| ClientCertVerified::assertion()).map_err(refused)
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, TlsError> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, dss, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
