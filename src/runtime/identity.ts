/**
 * Who a container's process runs as. In: the user that a pod or image asks for, and the texts of /etc/passwd and /etc/group inside the
 * container's root (hostile). Out: numbers, or a clear error. Pure.
 * Rules: a numeric string is never looked up as a name (CVE-2026-46680), ids are strict 32-bit numbers (CVE-2024-40635), files and lines are bounded
 * (CVE-2025-4437), malformed lines are passed over.
 */
import { RuntimeError, invalidArgument, limits } from '#core';

/** Who is asked for. At most one of uid and username, and of gid and groupname, counts; the number goes first. */
export interface UserRequest {
  readonly uid?: number;
  /** A name, or digits, which are taken as a uid. */
  readonly username?: string;
  readonly gid?: number;
  readonly groupname?: string;
  readonly supplementalGroups: readonly number[];
  /** Merge: also the groups that /etc/group lists the user in. Strict: only those given. Source: CRI SupplementalGroupsPolicy. */
  readonly policy: 'Merge' | 'Strict';
}

/** Contents of the files; undefined where the image has none. */
export interface IdentityFiles {
  readonly passwd?: Uint8Array;
  readonly group?: Uint8Array;
}

/** Who the process becomes. */
export interface Identity {
  readonly uid: number;
  readonly gid: number;
  /** Supplementary groups, sorted, each once; the primary group is among them as far as policy Merge or the files say so. */
  readonly groups: readonly number[];
  /** Home directory of the passwd entry; `/` without one. */
  readonly home: string;
}

interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}
interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** Where the identity files lie, in the order in which they are asked for. */
export const identityFiles = ['/etc/passwd', '/etc/group'] as const;

/** A strict 32-bit id in decimal digits; 4294967295 means "unchanged" to the kernel and is none. */
function parseId(text: string | undefined): number | undefined {
  if (text === undefined || !/^[0-9]{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id < 0xffff_ffff ? id : undefined;
}

function linesOf(bytes: Uint8Array | undefined, name: string): readonly string[] {
  if (bytes === undefined) return [];
  if (bytes.length > limits.identityFileBytesMax)
    throw new RuntimeError('resourceExhausted', `read ${name} of the image: ${bytes.length} bytes, at most ${limits.identityFileBytesMax}`);
  const lines = Buffer.from(bytes).toString('utf8').split('\n');
  if (lines.length > limits.identityLinesMax) throw new RuntimeError('resourceExhausted', `read ${name} of the image: ${lines.length} lines, at most ${limits.identityLinesMax}`);
  return lines.filter((line) => line !== '' && !line.startsWith('#') && !line.includes('\0'));
}

/** Lines of `name:password:uid:gid:comment:home:shell`; malformed ones are left out. Source: passwd(5). */
export function decodePasswd(bytes: Uint8Array | undefined): readonly PasswdEntry[] {
  return linesOf(bytes, '/etc/passwd').flatMap((line) => {
    const [name, , uidText, gidText, , home] = line.split(':');
    const [uid, gid] = [parseId(uidText), parseId(gidText)];
    return name === undefined || name === '' || uid === undefined || gid === undefined ? [] : [{ name, uid, gid, home: home?.startsWith('/') === true ? home : '/' }];
  });
}

/** Lines of `name:password:gid:member,member`; malformed ones are left out. Source: group(5). */
export function decodeGroup(bytes: Uint8Array | undefined): readonly GroupEntry[] {
  return linesOf(bytes, '/etc/group').flatMap((line) => {
    const [name, , gidText, members] = line.split(':');
    const gid = parseId(gidText);
    return name === undefined || name === '' || gid === undefined ? [] : [{ name, gid, members: (members ?? '').split(',').filter((member) => member !== '') }];
  });
}

/** Also what other readers would take for a number: a name `-1` or `+0` of an image's passwd names nobody. */
const isNumeric = (text: string): boolean => /^[+-]?[0-9]+$/.test(text);

function requireId(number: number | undefined, text: string, what: 'user' | 'group'): number {
  const id = number ?? parseId(text);
  if (id === undefined || !Number.isInteger(id) || id < 0 || id >= 0xffff_ffff)
    throw invalidArgument(`${what} ${JSON.stringify(number === undefined ? text.slice(0, 80) : String(number))}`, 'must be 0 to 4294967294');
  return id;
}

function findUser({ uid, username }: UserRequest, passwd: readonly PasswdEntry[]): { readonly uid: number; readonly entry: PasswdEntry | undefined } {
  if (uid !== undefined || username === undefined || username === '' || isNumeric(username)) {
    const id = uid === undefined && (username ?? '') === '' ? 0 : requireId(uid, username ?? '', 'user');
    return { uid: id, entry: passwd.find((candidate) => candidate.uid === id) };
  }
  const entry = passwd.find(({ name }) => name === username);
  if (entry === undefined) throw new RuntimeError('invalidArgument', `user ${JSON.stringify(username.slice(0, 80))}: not in /etc/passwd of the image`);
  return { uid: entry.uid, entry };
}

function findGroup({ gid, groupname }: UserRequest, fallback: number, groups: readonly GroupEntry[]): number {
  if (gid === undefined && (groupname ?? '') === '') return fallback;
  if (gid !== undefined || groupname === undefined || isNumeric(groupname)) return requireId(gid, groupname ?? '', 'group');
  const entry = groups.find(({ name }) => name === groupname);
  if (entry === undefined) throw new RuntimeError('invalidArgument', `group ${JSON.stringify(groupname.slice(0, 80))}: not in /etc/group of the image`);
  return entry.gid;
}

/**
 * The numbers of a user request. Without a gid the user's primary group of /etc/passwd counts, else 0. A user named by number needs no entry.
 * The primary group is one of the groups as well: who becomes another group by a set-group-ID program must not leave it, where a file's
 * permissions exclude it (CVE-2022-36109).
 * Throws invalidArgument `user "x": not in /etc/passwd of the image`, resourceExhausted for files beyond the bounds.
 */
export function resolveIdentity(request: UserRequest, files: IdentityFiles): Identity {
  const passwd = decodePasswd(files.passwd);
  const groups = decodeGroup(files.group);
  const { uid, entry } = findUser(request, passwd);
  const gid = findGroup(request, entry?.gid ?? 0, groups);
  const listed = request.policy === 'Strict' || entry === undefined ? [] : groups.filter(({ members }) => members.includes(entry.name)).map((group) => group.gid);
  const all = new Set([gid, ...request.supplementalGroups.map((id) => requireId(id, '', 'group')), ...listed]);
  return { uid, gid, groups: [...all].toSorted((a, b) => a - b), home: entry?.home ?? '/' };
}
