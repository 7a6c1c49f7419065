/**
 * What is trusted over TLS, and as whom we show ourselves. In: a registry host's settings. Out: options for connections. The system's
 * certificates are read once per thread.
 */
import { X509Certificate } from 'node:crypto';
import { type SecureContext, createSecureContext, getCACertificates } from 'node:tls';
import { RuntimeError } from '#core';
import type { RegistryHost } from './types.ts';

/** Options of an https agent. */
export interface TlsOptions {
  readonly secureContext: SecureContext;
  readonly rejectUnauthorized: boolean;
}

let trusted: readonly string[] | undefined;
let plainContext: SecureContext | undefined;

/** The system's certificates, as every other runtime on the machine uses them; Node's own list only where there are none. */
function trustedCertificates(): readonly string[] {
  if (trusted === undefined) {
    const found = new Set([...getCACertificates('system'), ...getCACertificates('extra')]);
    trusted = found.size > 0 ? [...found] : getCACertificates('default');
  }
  return trusted;
}

/**
 * Options for connections on behalf of `host`. Its certificate authorities hold for where it leads too: its token server and its storage are
 * usually signed by the same. `isOwn` is true for its own name, and only there is verification skipped and a client certificate shown.
 * Throws failedPrecondition for certificates that cannot be read.
 */
export function tlsOptionsOf(host: RegistryHost, isOwn: boolean): TlsOptions {
  const { ca = [], clientCertificates } = host;
  const certificates = isOwn ? clientCertificates : [];
  const rejectUnauthorized = !(isOwn && host.skipVerify);
  if (ca.length === 0 && certificates.length === 0) {
    plainContext ??= createSecureContext({ ca: [...trustedCertificates()] });
    return { secureContext: plainContext, rejectUnauthorized };
  }
  try {
    const own = certificates.length === 0 ? {} : { cert: certificates.map(({ cert }) => cert), key: certificates.map(({ key }) => key) };
    return { secureContext: createSecureContext({ ca: [...trustedCertificates(), ...ca.flatMap(authoritiesOf)], ...own }), rejectUnauthorized };
  } catch {
    // OpenSSL's message is not passed on: nobody promises that it has no part of a key.
    throw new RuntimeError('failedPrecondition', `use the certificates for ${new URL(host.url).host}: not PEM, or a key that does not fit`);
  }
}

/** The certificates of a PEM text, which may have none. Throws where one cannot be read, as OpenSSL would pass over it and trust less than it was told. */
export function certificatesOf(text: string): readonly string[] {
  const found = text.match(/-----BEGIN (?:TRUSTED )?CERTIFICATE-----[^-]*-----END (?:TRUSTED )?CERTIFICATE-----/g) ?? [];
  return found.map((pem) => new X509Certificate(pem).toString());
}

function authoritiesOf(text: string): readonly string[] {
  const found = certificatesOf(text);
  if (found.length === 0) throw new Error('no certificate');
  return found;
}
