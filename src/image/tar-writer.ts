/**
 * A tar archive of our own making: PAX where a name or size needs it, fixed times and owners, so that equal content gives equal
 * bytes. In: entries. Out: header blocks; the caller puts content and padding behind them. Pure.
 */
import { tarBlockBytes } from './tar-header.ts';

/** A member to be written; paths are relative, without a trailing slash. */
export type TarItem =
  | { readonly kind: 'directory'; readonly path: string; readonly mode: number }
  | { readonly kind: 'link'; readonly path: string; readonly target: string }
  | { readonly kind: 'file'; readonly path: string; readonly mode: number; readonly sizeBytes: number };

const typeFlags = { directory: '5', link: '2', file: '0' } as const;
const octalSizeMax = 0o77777777777;

/** Two blocks of zeros. */
export const tarEnd: Uint8Array = new Uint8Array(2 * tarBlockBytes);

/** Zeros that follow content of this length. */
export function tarPadding(sizeBytes: number): Uint8Array {
  return new Uint8Array((tarBlockBytes - (sizeBytes % tarBlockBytes)) % tarBlockBytes);
}

function paxRecord(key: string, value: string): string {
  const body = ` ${key}=${value}\n`;
  const bytes = Buffer.byteLength(body);
  let total = bytes + String(bytes).length;
  // One more digit may make the number itself longer.
  if (bytes + String(total).length !== total) total = bytes + String(total).length;
  return `${total}${body}`;
}

function headerBlock(header: { readonly name: string; readonly flag: string; readonly mode: number; readonly sizeBytes: number; readonly target: string }): Buffer {
  const block = Buffer.alloc(tarBlockBytes);
  block.write(header.name, 0, 100, 'utf8');
  const octal = (value: number, at: number, digits: number): void => void block.write(`${value.toString(8).padStart(digits, '0')}\0`, at, 'latin1');
  octal(header.mode, 100, 7);
  octal(0, 108, 7);
  octal(0, 116, 7);
  octal(Math.min(header.sizeBytes, octalSizeMax), 124, 11);
  octal(0, 136, 11);
  block.fill(0x20, 148, 156);
  block.write(header.flag, 156, 'latin1');
  block.write(header.target, 157, 100, 'utf8');
  block.write('ustar\u000000', 257, 'latin1');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

/** The header of an item, PAX records before it where needed. Owner is root, time the epoch. */
export function encodeTarHeader(item: TarItem): Buffer {
  const path = item.kind === 'directory' ? `${item.path}/` : item.path;
  const target = item.kind === 'link' ? item.target : '';
  const sizeBytes = item.kind === 'file' ? item.sizeBytes : 0;
  const records = [
    ...(Buffer.byteLength(path) > 100 ? [paxRecord('path', path)] : []),
    ...(Buffer.byteLength(target) > 100 ? [paxRecord('linkpath', target)] : []),
    ...(sizeBytes > octalSizeMax ? [paxRecord('size', String(sizeBytes))] : []),
  ].join('');
  const header = headerBlock({ name: path, flag: typeFlags[item.kind], mode: item.kind === 'link' ? 0o777 : item.mode, sizeBytes, target });
  if (records === '') return header;
  const pax = Buffer.from(records);
  return Buffer.concat([headerBlock({ name: 'pax', flag: 'x', mode: 0o644, sizeBytes: pax.length, target: '' }), pax, tarPadding(pax.length), header]);
}
