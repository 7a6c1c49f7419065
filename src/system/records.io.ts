/**
 * Records in sqlite. In: kind, id, value. Out: the same after any crash of this process. This file knows nothing of what it keeps.
 */
import { chmodSync, closeSync, constants, openSync } from 'node:fs';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { type ErrorCode, type Records, RuntimeError, decodeJson, encodeJson, errorMessage, wrapError } from '#core';

/** What sqlite's result codes mean to callers, with the errno that says the same. Source: sqlite.org "Result and Error Codes". */
const sqliteCodes: Readonly<Record<number, readonly [ErrorCode, string]>> = {
  5: ['unavailable', 'EBUSY'],
  8: ['failedPrecondition', 'EROFS'],
  10: ['unavailable', 'EIO'],
  11: ['dataLoss', 'EIO'],
  13: ['resourceExhausted', 'ENOSPC'],
  14: ['failedPrecondition', 'EIO'],
  26: ['dataLoss', 'EIO'],
};

/** A failure of sqlite as one of ours; the low byte of an extended code is the plain one. */
function recordsError(error: unknown): unknown {
  const errcode = error instanceof Error && 'errcode' in error && typeof error.errcode === 'number' ? error.errcode : undefined;
  if (errcode === undefined) return error;
  const [code, errno] = sqliteCodes[errcode & 0xff] ?? ['internal', undefined];
  return new RuntimeError(code, `write the state database: ${errorMessage(error)}`, { cause: error, ...(errno === undefined ? {} : { errno }) });
}

/**
 * Opens `path` (made when missing) in WAL mode with synchronous=NORMAL: a crash of the process loses nothing, a power cut may
 * lose the last writes but never the order. The caller holds the state directory's lock, so a second writer cannot exist;
 * should one show up all the same, a write fails after 2 s with `unavailable`.
 */
export class SqliteRecords implements Records, Disposable {
  readonly #database: DatabaseSync;
  readonly #put: StatementSync;
  readonly #get: StatementSync;
  readonly #list: StatementSync;
  readonly #delete: StatementSync;
  #depth = 0;

  constructor(path: string) {
    try {
      // Records hold secrets of pods and of their shims, and the directory may be an older one that is open to others. What sqlite
      // keeps beside the file gets the file's mode.
      if (path !== ':memory:') {
        closeSync(openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600));
        chmodSync(path, 0o600);
      }
      this.#database = new DatabaseSync(path);
      this.#database.exec('PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=2000;');
      this.#database.exec('CREATE TABLE IF NOT EXISTS record (kind TEXT NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID, STRICT');
    } catch (error) {
      throw wrapError(`open state database ${path}`, error, 'failedPrecondition');
    }
    this.#put = this.#database.prepare('INSERT INTO record (kind, id, value) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value');
    this.#get = this.#database.prepare('SELECT value FROM record WHERE kind = ? AND id = ?');
    this.#list = this.#database.prepare('SELECT id, value FROM record WHERE kind = ? ORDER BY id');
    this.#delete = this.#database.prepare('DELETE FROM record WHERE kind = ? AND id = ?');
  }

  put(kind: string, id: string, value: unknown): void {
    this.#write(() => this.#put.run(kind, id, encodeJson(value)));
  }

  get(kind: string, id: string): unknown {
    const row = this.#get.get(kind, id);
    return row === undefined ? undefined : decodeJson(String(row['value']));
  }

  list(kind: string): { id: string; value: unknown }[] {
    return this.#list.all(kind).map((row) => ({ id: String(row['id']), value: decodeJson(String(row['value'])) }));
  }

  delete(kind: string, id: string): void {
    this.#write(() => this.#delete.run(kind, id));
  }

  /** Runs a statement that changes something; a full disk is `resourceExhausted`. */
  #write(statement: () => void): void {
    try {
      statement();
    } catch (error) {
      throw recordsError(error);
    }
  }

  transaction<T>(body: () => T): T {
    if (this.#depth > 0) return body();
    this.#write(() => this.#database.exec('BEGIN IMMEDIATE'));
    this.#depth += 1;
    try {
      const result = body();
      this.#write(() => this.#database.exec('COMMIT'));
      return result;
    } catch (error) {
      // After some failures, a full disk among them, sqlite has rolled back by itself, and a second time would be an error that hides the first.
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK');
      throw error;
    } finally {
      this.#depth -= 1;
    }
  }

  [Symbol.dispose](): void {
    this.#database.close();
  }
}
