/**
 * Layer records gathered into pieces that are worth sending. In: records. Out: bytes in order. Large content is passed on where it lies, everything
 * else is copied together: a system call for each record would cost more than the record. Pure.
 */
import { type LayerRecord, encodeLayerRecord, encodeLayerRecordHeader } from '#plan';

const bufferBytes = 128 * 1024;
/** Content of at least so many bytes is cheaper passed on than copied. */
const ownPieceBytesMin = 16 * 1024;

/** One stream of records. */
export class RecordBatch {
  #buffer = Buffer.allocUnsafeSlow(bufferBytes);
  /** What of the buffer has been given away, and what is in use. */
  #start = 0;
  #end = 0;
  #pieces: Uint8Array[] = [];
  #pieceBytes = 0;

  /** Bytes that wait. */
  get bytes(): number {
    return this.#pieceBytes + this.#end - this.#start;
  }

  /** Takes a record in. Content of a `data` record must stay as it is until what `take` gave has been sent. */
  add(record: LayerRecord): void {
    if (record.op === 'data') {
      const { data } = record;
      this.#append(encodeLayerRecordHeader('data', data.length));
      if (data.length >= ownPieceBytesMin) this.#pass(data);
      else this.#append(data);
    } else {
      this.#append(encodeLayerRecord(record));
    }
  }

  #append(bytes: Uint8Array): void {
    if (bytes.length > this.#buffer.length - this.#end) {
      this.#cut();
      this.#buffer = Buffer.allocUnsafeSlow(bufferBytes);
      this.#start = 0;
      this.#end = 0;
    }
    if (bytes.length > this.#buffer.length) {
      this.#pass(bytes);
      return;
    }
    this.#buffer.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  #pass(bytes: Uint8Array): void {
    this.#cut();
    this.#pieces.push(bytes);
    this.#pieceBytes += bytes.length;
  }

  #cut(): void {
    if (this.#end === this.#start) return;
    this.#pieces.push(this.#buffer.subarray(this.#start, this.#end));
    this.#pieceBytes += this.#end - this.#start;
    this.#start = this.#end;
  }

  /** Everything that was gathered, in order. */
  take(): readonly Uint8Array[] {
    this.#cut();
    const pieces = this.#pieces;
    this.#pieces = [];
    this.#pieceBytes = 0;
    return pieces;
  }
}
