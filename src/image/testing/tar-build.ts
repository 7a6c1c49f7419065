/** Crafted archives for tests: any header field as wanted, right or wrong. */
import { tarPadding } from '../tar-writer.ts';

export interface CraftedEntry {
  readonly name: string;
  readonly type?: string;
  readonly content?: Uint8Array | string;
  readonly link?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly device?: readonly [number, number];
  /** Overrides the length of the content. */
  readonly sizeBytes?: number;
  /** PAX records that come before. */
  readonly pax?: Readonly<Record<string, string>>;
  /** Raw bytes written over the header before its checksum. */
  readonly patch?: readonly (readonly [number, Uint8Array])[];
}

/** `length key=value\n`, the length counting itself. */
export function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = Buffer.byteLength(rest) + 1;
  while (String(length).length + Buffer.byteLength(rest) !== length) length += 1;
  return `${length}${rest}`;
}

function header(entry: CraftedEntry, sizeBytes: number): Buffer {
  const block = Buffer.alloc(512);
  block.write(entry.name, 0, 100);
  const octal = (value: number, at: number, width: number): void => void block.write(`${value.toString(8).padStart(width - 1, '0')}\0`, at, 'latin1');
  octal(entry.mode ?? 0o644, 100, 8);
  octal(entry.uid ?? 0, 108, 8);
  octal(entry.gid ?? 0, 116, 8);
  octal(sizeBytes, 124, 12);
  octal(entry.mtime ?? 0, 136, 12);
  block.write(entry.type ?? '0', 156, 'latin1');
  block.write(entry.link ?? '', 157, 100);
  block.write('ustar\u000000', 257, 'latin1');
  octal(entry.device?.[0] ?? 0, 329, 8);
  octal(entry.device?.[1] ?? 0, 337, 8);
  for (const [at, bytes] of entry.patch ?? []) block.set(bytes, at);
  block.fill(0x20, 148, 156);
  octal(
    block.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  );
  return block;
}

/** The archive, with its end. */
export function craftTar(entries: readonly CraftedEntry[]): Buffer {
  const parts: Uint8Array[] = [];
  for (const entry of entries) {
    const content = Buffer.from(entry.content ?? '');
    const records = Object.entries(entry.pax ?? {})
      .map(([key, value]) => paxRecord(key, value))
      .join('');
    if (records !== '') {
      const pax = Buffer.from(records);
      parts.push(header({ name: 'pax', type: 'x' }, pax.length), pax, tarPadding(pax.length));
    }
    parts.push(header(entry, entry.sizeBytes ?? content.length), content, tarPadding(content.length));
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}
