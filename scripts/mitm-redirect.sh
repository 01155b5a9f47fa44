#!/bin/sh
#
# mitm-redirect.sh: send one user's HTTPS through Wiremeter's proxy, and undo it exactly.
#
# Reads      its options, and the record of an earlier install.
# Changes    one system user with its home, two directories, firewall rules that name this user only, one sudo rule.
# Records    /var/lib/wiremeter-redirect-USER.state: each step is written there before it is done, so that uninstall
#            undoes what install did and nothing else, however far it came.
# Fails      with a status from sysexits.h and one line that names the value and what is allowed; a second run
#            completes the first.
#
# The rules, and why each is there, are in docs/redirect.md.

set -u
set -f # Lines of the firewall's listing are split into words below; none may turn into file names.
LC_ALL=C
export LC_ALL
# sbin is missing from the path of an ordinary user and of `su` without a dash.
PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 022

LIB=/var/lib
SHARED=$LIB/wiremeter
SUDOERS=/etc/sudoers.d
COMMENT_OF_USER="Wiremeter language server"

EX_USAGE=64
EX_UNAVAILABLE=69
EX_CANTCREAT=73
EX_TEMPFAIL=75
EX_NOPERM=77

usage() {
	cat <<-'END'
		usage: mitm-redirect.sh install | uninstall | status [option ...]

		  install     make the user, the redirect rules and the sudo rule; harmless when repeated
		  uninstall   undo what install did, the user's home and the login kept in it included
		  status      one line per part: ok, MISSING, unseen (needs root) or info

		  --user NAME      whose traffic is redirected (default antigravity-ls)
		  --runner NAME    who runs Wiremeter (default: who called sudo, else the present user)
		  --port N         where mitm listens (default 8742; status: the installed one)
		  --backend WHICH  iptables or nft (default: iptables where present, else nft)
		  --exclusive      also refuse the port to all other users; CONNECT from your own agents then fails
		  --dry-run        print each command and change nothing
		  --force          uninstall although processes of the user run; ends them if install made the user
		  --json           status as one JSON object
		  -h, --help       this text

		status exits with 0 when everything is there, 1 when a part is missing, 2 when nothing is known to be
		missing but some parts could not be seen without root. Other failures: 64 wrong usage, 69 a tool is
		missing, 73 a file is in the way, 75 try again later, 77 not root.
	END
}

main() {
	parse "$@"
	check_values
	tables_variant=$(iptables -V 2>/dev/null)
	case $command in
	install) install_all ;;
	uninstall) uninstall_all ;;
	status) status_all ;;
	esac
}

# --- words ----------------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }
warn() { printf 'mitm-redirect: %s\n' "$*" >&2; }

fail() { # status, message
	failure=$1
	shift
	warn "$*"
	exit "$failure"
}

shown() { # the words as one would type them
	for word; do
		case $word in
		'' | *[!A-Za-z0-9_./:=+,@%-]*) printf " '%s'" "$word" ;;
		*) printf ' %s' "$word" ;;
		esac
	done
}

run() { # do it, or with --dry-run say it
	if [ -n "$dry_run" ]; then
		say "+$(shown "$@")"
	else
		"$@"
	fi
}

run_with_input() { # text, command: the same for a command that reads the text
	input=$1
	shift
	if [ -n "$dry_run" ]; then
		printf '+%s <<END\n%s\nEND\n' "$(shown "$@")" "$input"
	else
		printf '%s\n' "$input" | "$@"
	fi
}

must() { run "$@" || fail 1 "this failed:$(shown "$@"); $what_next"; }
must_with_input() { run_with_input "$@" || fail 1 "this failed:$(shift && shown "$@"); $what_next"; }
what_next="run install again to complete it, or uninstall to undo it"
have() { command -v "$1" >/dev/null 2>&1; }

# --- options --------------------------------------------------------------------------------------

parse() {
	command='' ls_user=antigravity-ls port='' runner='' backend='' exclusive='' dry_run='' force='' json=''
	while [ $# -gt 0 ]; do
		case $1 in
		install | uninstall | status)
			[ -z "$command" ] || fail $EX_USAGE "both $command and $1: one command is allowed"
			command=$1
			;;
		--user=* | --runner=* | --port=* | --backend=*) set_option "${1%%=*}" "${1#*=}" ;;
		--user | --runner | --port | --backend)
			[ $# -ge 2 ] || fail $EX_USAGE "$1: a value must follow"
			set_option "$1" "$2"
			shift
			;;
		--exclusive) exclusive=yes ;;
		--dry-run) dry_run=yes ;;
		--force) force=yes ;;
		--json) json=yes ;;
		-h | --help)
			usage
			exit 0
			;;
		*) fail $EX_USAGE "'$1' is unknown; allowed: install, uninstall, status and the options that --help lists" ;;
		esac
		shift
	done
	[ -n "$command" ] || fail $EX_USAGE "no command; allowed: install, uninstall, status (see --help)"
}

set_option() { # option, value
	[ -n "$2" ] || fail $EX_USAGE "$1: the value is empty"
	case $1 in
	--user) ls_user=$2 ;;
	--runner) runner=$2 ;;
	--port) port=$2 ;;
	--backend) backend=$2 ;;
	esac
}

check_values() {
	# What useradd takes everywhere. "wiremeter" would have the shared directory as its home.
	case $ls_user in
	wiremeter | root | [!a-z_]* | *[!a-z0-9_-]*) bad_user "lower-case letters, digits, - and _, not root or wiremeter" ;;
	esac
	[ ${#ls_user} -le 32 ] || bad_user "at most 32 characters"
	[ "$(id -u "$ls_user" 2>/dev/null)" != 0 ] || bad_user "a user other than root"
	runner=${runner:-${SUDO_USER:-$(id -un)}}
	# The name becomes part of two paths and of a sudo rule.
	case $runner in
	[.-]* | *[!A-Za-z0-9_.@-]*) bad_runner "letters, digits and _ . @ -" ;;
	esac
	id -u "$runner" >/dev/null 2>&1 || bad_runner "a user that exists"
	[ "$runner" != "$ls_user" ] || bad_runner "a user other than the redirected one, or mitm would talk to itself"
	case $backend in
	'' | iptables | nft) ;;
	*) fail $EX_USAGE "--backend $backend: allowed are iptables and nft" ;;
	esac
	case $port in
	*[!0-9]* | 0* | 443 | ??????*) bad_port ;;
	esac
	[ "${port:-1}" -le 65535 ] || bad_port

	state=$LIB/wiremeter-redirect-$ls_user.state
	tag=wiremeter:$ls_user
	nft_table=wiremeter-$ls_user
	shared_runner=$SHARED/$runner
	sudoers_file=$SUDOERS/$(sudoers_name)
}

bad_user() { fail $EX_USAGE "--user $ls_user: allowed is $1"; }
bad_runner() { fail $EX_USAGE "--runner $runner: allowed is $1"; }
bad_port() { fail $EX_USAGE "--port $port: allowed is 1 to 65535 without 443"; }

sudoers_name() { # sudo ignores files whose names contain a dot; + is in no user's name, so two names never meet
	printf 'wiremeter-%s' "$(printf %s "$runner" | sed 's/\./%2E/g; s/@/%40/g')"
	[ "$ls_user" = antigravity-ls ] || printf '+%s' "$ls_user"
}

is_root() { [ "$(id -u)" = 0 ]; }

need_root() {
	is_root || [ -n "$dry_run" ] || fail $EX_NOPERM "$command must run as root: sudo $0 $command"
}

lock() { # one at a time, whichever user it is about: they share directories and tables
	if [ -z "$dry_run" ] && have flock; then
		exec 9<$LIB
		flock -w 30 9 || fail $EX_TEMPFAIL "another mitm-redirect has been running for 30 s; try again later"
	fi
}

# --- the record -----------------------------------------------------------------------------------
#
# Lines of "kind verdict name": `new` was made by us (or was about to be), `old` was there before and is only used. Also
# "backend NAME" and "port N", the last of which counts.

noted() { [ -r "$state" ] && grep -qxF -e "$1" "$state"; }
latest() { if [ -r "$state" ]; then sed -n "s/^$1 //p" "$state" | tail -n 1; fi; }

note() { noted "$1" || append_to_state "$1"; }
note_latest() { [ "$(latest "$1")" = "$2" ] || append_to_state "$1 $2"; }

append_to_state() {
	if [ -n "$dry_run" ]; then
		say "+ record '$1' in $state"
	else
		(umask 077 && printf '%s\n' "$1" >>"$state") || fail $EX_CANTCREAT "cannot write $state"
	fi
}

note_found() { # kind, name, whether it is there: `new` stays `new` when install is repeated
	if "$3" "$2"; then
		noted "$1 new $2" || note "$1 old $2"
	else
		note "$1 new $2"
	fi
}

made() { # kind: the names of what we made
	if [ -r "$state" ]; then sed -n "s/^$1 new //p" "$state"; fi
}

hand_over() { # kind, name: if another install uses it too, that one undoes it later
	set +f
	for other in "$LIB"/wiremeter-redirect-*.state; do
		if [ "$other" != "$state" ] && grep -qxF -e "$1 old $2" -e "$1 new $2" "$other" 2>/dev/null; then
			[ -n "$dry_run" ] || printf '%s new %s\n' "$1" "$2" >>"$other"
			set -f
			return 0
		fi
	done
	set -f
	return 1
}

# --- install --------------------------------------------------------------------------------------

install_all() {
	need_root
	[ -n "$port" ] || port=8742
	[ -n "$backend" ] || backend=$(present_backend)
	need_tools
	lock
	check_in_the_way
	note_latest backend "$backend"
	note_latest port "$port"
	make_user
	make_directories
	make_rules
	make_sudoers
	[ -z "$dry_run" ] || exit 0
	status_all
}

present_backend() { if have iptables || ! have nft; then say iptables; else say nft; fi; }

need_tools() {
	for tool in useradd userdel sudo visudo "$backend"; do
		have "$tool" || fail $EX_UNAVAILABLE "$tool not found; install the package that holds it"
	done
}

# Before anything is changed: what exists under our names must be what we would have made.
check_in_the_way() {
	check_directory "$SHARED" 0 755
	check_directory "$shared_runner" "$(id -u "$runner")" 755
	if id -u "$ls_user" >/dev/null 2>&1; then
		[ "$(home)" != "$LIB/$ls_user" ] || check_directory "$LIB/$ls_user" "$(id -u "$ls_user")" 700
	elif ! noted "user new $ls_user"; then
		! group_exists "$ls_user" || in_the_way "the group $ls_user exists, but no user of that name"
		! exists "$LIB/$ls_user" || in_the_way "$LIB/$ls_user exists, but no user $ls_user"
	fi
	if exists "$sudoers_file" && ! noted "sudoers new $sudoers_file"; then
		[ "$(cat "$sudoers_file")" = "$(sudoers_text)" ] || in_the_way "$sudoers_file exists and says something else"
	fi
}

in_the_way() { fail $EX_CANTCREAT "$1: remove it, or choose another --user"; }

check_directory() { # path, number of the owner, mode
	exists "$1" && ! noted "directory new $1" || return 0
	if [ ! -d "$1" ] || [ -L "$1" ]; then in_the_way "$1 is not a directory"; fi
	found=$(stat -c '%u %a' "$1")
	[ "$found" = "$2 $3" ] || in_the_way "$1 has owner and mode '$found'; allowed: '$2 $3'"
}

exists() { [ -e "$1" ] || [ -L "$1" ]; }
user_exists() { id -u "$1" >/dev/null 2>&1; }
group_exists() { getent group "$1" >/dev/null; }

make_user() {
	note_found user "$ls_user" user_exists
	! user_exists "$ls_user" || return 0
	note_found group "$ls_user" group_exists
	group=--user-group
	! group_exists "$ls_user" || group="--gid=$ls_user" # left by a useradd that was killed
	shell=/bin/false
	[ ! -x /usr/sbin/nologin ] || shell=/usr/sbin/nologin
	must useradd --system "$group" --no-create-home --home-dir "$LIB/$ls_user" --shell $shell \
		--comment "$COMMENT_OF_USER" "$ls_user"
}

# The home is what passwd says if that is a directory of the user's own, else /var/lib/USER. lsrunner follows this rule.
home() {
	home=$(getent passwd "$ls_user" | cut -d: -f6)
	if [ -n "$home" ] && [ -d "$home" ] && [ "$(stat -c %u "$home")" = "$(id -u "$ls_user")" ]; then
		say "$home"
	else
		say "$LIB/$ls_user"
	fi
}

make_directories() {
	make_directory "$SHARED" 755 0 0
	make_directory "$shared_runner" 755 "$(id -u "$runner")" "$(id -g "$runner")"
	if user_exists "$ls_user"; then
		[ "$(home)" != "$LIB/$ls_user" ] || make_directory "$LIB/$ls_user" 700 "$(id -u "$ls_user")" "$(id -g "$ls_user")"
	else # only said, not done
		make_directory "$LIB/$ls_user" 700 "$ls_user" "$ls_user"
	fi
}

make_directory() { # path, mode, owner, group
	note_found directory "$1" exists
	noted "directory old $1" || [ "$(stat -c '%a %u %g' "$1" 2>/dev/null)" = "$2 $3 $4" ] ||
		must install -d -m "$2" -o "$3" -g "$4" "$1"
}

make_sudoers() {
	if [ "$(id -u "$runner")" = 0 ] && { [ -n "$dry_run" ] || sudo_allows; }; then
		say "root may use sudo anyway: no sudo rule added"
		return
	fi
	note_found sudoers "$sudoers_file" exists
	! noted "sudoers old $sudoers_file" || return 0
	if [ "$(cat "$sudoers_file" 2>/dev/null)" != "$(sudoers_text)" ] ||
		[ "$(stat -c '%a %u' "$sudoers_file")" != "440 0" ]; then
		# The dot in ".new" keeps sudo from reading it before it is checked.
		must_with_input "$(sudoers_text)" install -m 0440 /dev/stdin "$sudoers_file.new"
		must visudo -cqf "$sudoers_file.new"
		must mv "$sudoers_file.new" "$sudoers_file"
	fi
}

sudoers_text() {
	say "# Made by Wiremeter's mitm-redirect.sh, which also removes it: uninstall --user $ls_user"
	say "$runner ALL=($ls_user) NOPASSWD: /usr/bin/env"
}

# Is the rule in force, as sudo itself sees it?
sudo_allows() { sudo -n -l -U "$runner" -u "$ls_user" /usr/bin/env >/dev/null 2>&1; }

# --- the rules ------------------------------------------------------------------------------------

kernel_has_ipv6() { [ -e /proc/sys/net/ipv6/conf ]; }
uid_or_name() { id -u "$ls_user" 2>/dev/null || say "$ls_user"; }
families() { if kernel_has_ipv6; then say v4 v6; else say v4; fi; }

make_rules() {
	uid=$(uid_or_name)
	kernel_has_ipv6 || say "IPv6 not available in this kernel: only IPv4 is redirected"
	if [ "$backend" = nft ]; then
		load_nft_table
		remove_iptables_rules_unless_wanted none
		remove_tables_we_made
	else
		note_tables
		each_rule add_rule
		remove_iptables_rules_unless_wanted wanted
		remove_nft_table
	fi
}

# Call "$1 family table name specification..." for each rule. What refuses comes first: a half-done install never leaks.
each_rule() {
	ours="-m comment --comment $tag"
	owner="-m owner --uid-owner $uid"
	for family in $(families); do
		# shellcheck disable=SC2086 # words, on purpose
		{
			"$1" "$family" filter fail-closed ! -o lo -p tcp --dport 443 $owner $ours -j REJECT --reject-with tcp-reset
			"$1" "$family" filter udp-block -p udp --dport 443 $owner $ours -j REJECT
			[ -z "$exclusive" ] || "$1" "$family" filter exclusive -o lo -p tcp --dport "$port" -m owner ! --uid-owner "$uid" \
				$ours -j REJECT --reject-with tcp-reset
			"$1" "$family" nat redirect -p tcp --dport 443 $owner $ours -j REDIRECT --to-ports "$port"
		}
	done
}

tables() { # family: run that family's command
	case $1 in
	v4) shift && iptables -w 5 "$@" ;;
	v6) shift && ip6tables -w 5 "$@" ;;
	esac
}
tool_of() { if [ "$1" = v4 ]; then say iptables; else say ip6tables; fi; }

# Looking into a table that does not exist yet makes the legacy variant create it.
table_is_there() { # family, table
	case $tables_variant in
	*legacy*) grep -qx "$2" "/proc/net/$(tool_of "$1" | sed 's/tables/_tables/')_names" 2>/dev/null ;;
	esac
}

rule_is_there() { # family, table, name, specification
	family=$1 table=$2
	shift 3
	have "$(tool_of "$family")" && table_is_there "$family" "$table" &&
		tables "$family" -t "$table" -C OUTPUT "$@" 2>/dev/null
}

# First place, because a rule of somebody else that accepts everything may stand in the chain.
add_rule() { # family, table, name, specification
	! rule_is_there "$@" || return 0
	family=$1 table=$2 name=$3
	shift 3
	run "$(tool_of "$family")" -w 5 -t "$table" -I OUTPUT 1 "$@" ||
		warn "the rule $family-$name could not be added: not everything is metered"
}

our_lines() { # family, table: our rules as "-A OUTPUT ..." without quotation marks
	have "$(tool_of "$1")" && table_is_there "$1" "$2" || return 0
	tables "$1" -t "$2" -S OUTPUT 2>/dev/null | tr -d '"' | grep -e " --comment $tag " -e " --comment $tag\$"
}

# Rules with our comment that are double, or for another number or port, go; those of others are never touched.
remove_iptables_rules_unless_wanted() { # wanted | none
	for family in v4 v6; do
		for table in filter nat; do
			seen=' '
			our_lines "$family" "$table" | while read -r _ rule; do
				name=none
				[ "$1" = none ] || name=$(name_of_rule "$rule")
				case $name$seen in
				none* | *" $name "*)
					# shellcheck disable=SC2086 # words, on purpose; the listing has no quotation marks left
					must "$(tool_of "$family")" -w 5 -t "$table" -D $rule
					;;
				*) seen="$seen$name " ;;
				esac
			done || exit 1
		done
	done
}

name_of_rule() { # a line of the listing: which of the wanted rules it is
	case " $1 " in
	*" --dport $port "*" ! --uid-owner $uid "*) say "${exclusive:+exclusive }none" | cut -d' ' -f1 ;;
	*" ! --uid-owner "*) say none ;;
	*" --uid-owner $uid "*" -j REDIRECT --to-ports $port "*) say redirect ;;
	*" ! -o lo "*" --uid-owner $uid "*" -j REJECT "*) say fail-closed ;;
	*" -p udp "*" --uid-owner $uid "*" -j REJECT "*) say udp-block ;;
	*) say none ;;
	esac
}

# iptables' nftables variant makes a table and a chain at the first rule in it. Where nft can show that they were
# absent, we remove them again when they have become empty. Legacy tables cannot be removed; empty ones do nothing.
nft_families() { if kernel_has_ipv6; then say ip ip6; else say ip; fi; }

note_tables() {
	case $tables_variant in *nf_tables*) ;; *) return 0 ;; esac
	have nft && is_root || return 0
	for nft_family in $(nft_families); do
		for table in filter nat; do
			note_found chain "$nft_family $table OUTPUT" nft_chain_exists
			note_found table "$nft_family $table" nft_table_exists
		done
	done
}

# shellcheck disable=SC2086 # words, on purpose
nft_chain_exists() { nft list chain $1 >/dev/null 2>&1; }
# shellcheck disable=SC2086
nft_table_exists() { nft list table $1 >/dev/null 2>&1; }

remove_tables_we_made() {
	have nft || return 0
	# shellcheck disable=SC2086 # words, on purpose
	made chain | while read -r name; do
		if hand_over chain "$name"; then
			:
		elif nft list chain $name 2>/dev/null | only '[[:space:]]*(table .*|chain .*|type .* policy accept;|\}|#.*)'; then
			must nft delete chain $name
		fi
	done || exit 1
	# shellcheck disable=SC2086
	made table | while read -r name; do
		if hand_over table "$name"; then
			:
		elif nft list table $name 2>/dev/null | only '(table .*|\}|#.*)'; then
			must nft delete table $name
		fi
	done || exit 1
}

only() { # pattern: is there something, and no line that is not like this?
	text=$(cat)
	[ -n "$text" ] && ! say "$text" | grep -qvE "^$1\$"
}

load_nft_table() { # one transaction; the first two lines make it replace what is there
	run_with_input "table inet $nft_table
delete table inet $nft_table
table inet $nft_table {
	chain divert {
		type nat hook output priority -100; policy accept;
$(each_nft_rule nat)
	}
	chain guard {
		type filter hook output priority 0; policy accept;
$(each_nft_rule filter)
	}
}" nft -f - || warn "the nft rules could not be loaded: nothing is redirected"
}

each_nft_rule() { # nat | filter
	for family in $(families); do
		nft_rules "$family" | while read -r table name rule; do
			[ "$table" != "$1" ] || say "		meta nfproto ip$family $rule comment \"$tag $family-$name\""
		done
	done
}

# The words stand in the order in which nft lists them again, so that status can compare; what follows "with" differs
# between versions of nft and is left out of the comparison.
nft_rules() { # family
	case $1 in v4) unreachable="icmp port-unreachable" ;; v6) unreachable="icmpv6 port-unreachable" ;; esac
	say "filter fail-closed oifname != \"lo\" meta skuid $uid tcp dport 443 reject with tcp reset"
	say "filter udp-block meta skuid $uid udp dport 443 reject with $unreachable"
	[ -z "$exclusive" ] || say "filter exclusive oifname \"lo\" meta skuid != $uid tcp dport $port reject with tcp reset"
	say "nat redirect meta skuid $uid tcp dport 443 redirect to :$port"
}

remove_nft_table() {
	have nft && is_root && nft_table_exists "inet $nft_table" || return 0
	must nft delete table inet "$nft_table"
}

# --- uninstall ------------------------------------------------------------------------------------

uninstall_all() {
	need_root
	lock
	exists "$state" || say "no install for $ls_user is on record; looking for rules with its comment only"
	end_processes
	# The rules hold the user's number: they go before the user, or whoever gets the number next inherits them.
	uid=$(uid_or_name)
	remove_iptables_rules_unless_wanted none
	remove_nft_table
	remove_tables_we_made
	remove_sudoers
	remove_directories
	remove_user
	! exists "$state" || must rm -f "$state"
}

processes() { # of the user, by any of their user numbers; those that have ended and wait for their parent do not count
	user_exists "$ls_user" || return 0
	number=$(id -u "$ls_user")
	set +f
	grep -lE "^Uid:.*[[:space:]]$number([[:space:]]|\$)" /proc/[0-9]*/status 2>/dev/null | while read -r status_file; do
		! grep -q '^State:[[:space:]]*[A-Y]' "$status_file" 2>/dev/null || say "$status_file" | cut -d/ -f3
	done
	set -f
}

end_processes() {
	running=$(processes | tr '\n' ' ')
	[ -n "$running" ] || return 0
	[ -n "$force" ] ||
		fail $EX_TEMPFAIL "processes of $ls_user run: ${running% }; stop them first (stop Wiremeter), or use --force"
	if ! noted "user new $ls_user"; then
		warn "processes of $ls_user go on unmetered: ${running% }"
		return
	fi
	for signal in TERM KILL; do
		# shellcheck disable=SC2086
		run kill -s $signal $running 2>/dev/null
		[ -z "$dry_run" ] || return 0
		tries=30
		while running=$(processes | tr '\n' ' ') && [ -n "$running" ] && [ $tries -gt 0 ]; do
			tries=$((tries - 1))
			sleep 0.1
		done
		[ -n "$running" ] || return 0
	done
	fail $EX_TEMPFAIL "processes of $ls_user cannot be ended: ${running% }"
}

remove_sudoers() {
	made sudoers | while read -r name; do
		if exists "$name" || exists "$name.new"; then must rm -f "$name" "$name.new"; fi
	done
}

remove_directories() {
	# Deepest first; /var/lib/wiremeter itself only when nothing of anybody else is in it.
	made directory | sort -r | while read -r name; do
		case $name in "$LIB"/*..* | "$LIB"/) continue ;; "$LIB"/*) ;; *) continue ;; esac
		if hand_over directory "$name" || ! exists "$name"; then
			:
		elif [ "$name" != "$SHARED" ]; then
			must rm -rf --one-file-system "$name"
		elif ! run rmdir "$name"; then
			warn "$name is kept: it holds files that install did not make"
		fi
	done
}

remove_user() {
	made user | while read -r name; do
		if ! user_exists "$name"; then
			:
		elif [ "$(getent passwd "$name" | cut -d: -f5)" != "$COMMENT_OF_USER" ]; then
			warn "the user $name is kept: it is not the one that install made"
		else
			must userdel "$name"
		fi
	done || exit 1
	made group | while read -r name; do
		# userdel removes it too, but not where login.defs says otherwise, and not when useradd was killed.
		if group_exists "$name" && ! user_exists "$name"; then must groupdel "$name"; fi
	done || exit 1
}

# --- status ---------------------------------------------------------------------------------------

status_all() {
	[ -n "$port" ] || port=$(latest port)
	[ -n "$port" ] || port=8742
	[ -n "$backend" ] || backend=$(latest backend)
	[ -n "$backend" ] || backend=$(present_backend)
	worst=0 parts=''
	uid=$(id -u "$ls_user" 2>/dev/null)
	status_user
	status_shared
	status_rules
	status_sudo
	status_listener
	[ -z "$json" ] || print_json
	exit $worst
}

report() { # ok | MISSING | unseen | info, part, detail
	case $1 in
	MISSING) worst=1 ;;
	unseen) [ "$worst" = 1 ] || worst=2 ;;
	esac
	if [ -n "$json" ]; then
		detail=$(printf %s "$3" | sed 's/[\\"]/\\&/g')
		parts="$parts${parts:+, }{\"part\": \"$2\", \"state\": \"$1\", \"detail\": \"$detail\"}"
	else
		printf '%-7s  %-16s  %s\n' "$1" "$2" "$3"
	fi
}

print_json() {
	printf '{"schema": "wiremeter.redirect-status/1", "user": "%s", "runner": "%s", "port": %s, "backend": "%s", ' \
		"$ls_user" "$runner" "$port" "$backend"
	printf '"status": %s, "parts": [%s]}\n' "$worst" "$parts"
}

status_user() {
	if [ -z "$uid" ]; then
		report MISSING user "no user $ls_user"
		report MISSING home "no user $ls_user"
		return
	fi
	report ok user "$ls_user, number $uid"
	if [ -d "$(home)" ] && [ "$(stat -c %u "$(home)")" = "$uid" ]; then
		report ok home "$(home)"
	else
		report MISSING home "$(home) is not a directory of $ls_user"
	fi
}

status_shared() {
	expected="$(id -u "$runner") 755"
	found=$(stat -c '%u %a' "$shared_runner" 2>/dev/null)
	if [ "$found" = "$expected" ]; then
		report ok shared-directory "$shared_runner"
	else
		report MISSING shared-directory "$shared_runner: owner and mode '${found:-none}', wanted '$expected'"
	fi
}

status_rules() {
	why=$(why_rules_are_unseen)
	if [ -n "$why" ]; then
		for name in redirect udp-block fail-closed; do
			report unseen v4-$name "$why"
			report unseen v6-$name "$why"
		done
		report unseen rule-number "$why"
		return
	fi
	[ "$backend" != nft ] || nft_listing=$(nft_listing)
	uid=${uid:-none}
	numbers=$(numbers_in_rules)
	"status_of_each_${backend}_rule"
	if ! kernel_has_ipv6; then
		for name in redirect udp-block fail-closed; do report ok v6-$name "IPv6 not available in this kernel"; done
	fi
	status_numbers
}

why_rules_are_unseen() {
	have "$backend" || return 0 # then they are missing
	case $backend in
	nft) is_root && nft list tables >/dev/null 2>&1 ;;
	iptables) is_root && { ! table_is_there v4 filter || iptables -w 5 -S OUTPUT >/dev/null 2>&1; } ;;
	esac || say "listing the rules needs root"
}

status_of_each_iptables_rule() {
	if [ "$uid" = none ]; then each_rule report_missing_rule; else each_rule report_iptables_rule; fi
}

report_iptables_rule() { # family, table, name, specification
	if rule_is_there "$@"; then
		report ok "$1-$3" "$(rule_in_words "$3")"
	else
		report_missing_rule "$@"
	fi
}

nft_listing() { nft list table inet "$nft_table" 2>/dev/null | sed 's/ reject with .* comment / reject comment /'; }

status_of_each_nft_rule() {
	for family in $(families); do
		while read -r _ name rule; do
			case $nft_listing in
			*"${rule%% with *} comment \"$tag $family-$name\""*) report ok "$family-$name" "$(rule_in_words "$name")" ;;
			*) report_missing_rule "$family" - "$name" ;;
			esac
		done <<-END
			$(nft_rules "$family")
		END
	done
}

report_missing_rule() { # family, table, name
	tool=nft
	[ "$backend" = nft ] || tool=$(tool_of "$1")
	if ! have "$tool"; then
		report MISSING "$1-$3" "$tool not found"
	elif [ "$3" = redirect ] && [ -n "$(ports_in_rules)" ]; then
		report MISSING "$1-$3" "no rule sends to port $port; ours send to: $(ports_in_rules)"
	else
		report MISSING "$1-$3" "not in the $backend rules"
	fi
}

rule_in_words() {
	case $1 in
	redirect) say "tcp 443 goes to port $port" ;;
	udp-block) say "udp 443 is refused" ;;
	fail-closed) say "tcp 443 that was not redirected is refused" ;;
	exclusive) say "port $port is refused to all other users" ;;
	esac
}

our_rules() {
	if [ "$backend" = nft ]; then
		say "$nft_listing" | grep -F "comment \"$tag "
	else
		for family in v4 v6; do for table in filter nat; do our_lines $family $table; done; done
	fi
}

numbers_in_rules() { our_rules | sed -nE 's/.*(skuid|--uid-owner) (!= )?([0-9]+) .*/\3/p' | sort -un | paste -sd ' '; }
ports_in_rules() { our_rules | sed -nE 's/.*(redirect to :|--to-ports )([0-9]+).*/\2/p' | sort -un | paste -sd ' '; }

status_numbers() {
	if [ -n "$numbers" ] && [ "$numbers" = "$uid" ]; then
		report ok rule-number "the rules are for $uid, the number of $ls_user"
	else
		report MISSING rule-number "the rules are for '${numbers:-nobody}', the number of $ls_user is '$uid'"
	fi
}

status_sudo() {
	if ! have sudo; then
		report MISSING sudo "sudo not found"
	elif ! is_root && [ "$(id -un)" != "$runner" ]; then
		report unseen sudo "what $runner may do only root and $runner can see"
	elif [ -r "$sudoers_file" ] && ! visudo -cqf "$sudoers_file" >/dev/null 2>&1; then
		report MISSING sudo "$sudoers_file is not valid"
	elif is_root && ! sudo_allows; then
		report MISSING sudo "$runner may not run /usr/bin/env as $ls_user"
	elif ! complaint=$(try_sudo 2>&1); then
		report MISSING sudo "$runner tried it: $(say "$complaint" | tail -n 1)"
	else
		report ok sudo "$runner may run programs as $ls_user"
	fi
}

# A rule read later may ask for a password again, which `sudo -l` does not tell: only trying shows it.
try_sudo() {
	set -- sudo -n -u "$ls_user" -- /usr/bin/env true
	if [ "$(id -un)" = "$runner" ]; then
		"$@" </dev/null
	elif have setpriv; then
		setpriv --reuid="$(id -u "$runner")" --regid="$(id -g "$runner")" --init-groups "$@" </dev/null
	fi
}

status_listener() {
	hexadecimal=$(printf %04X "$port")
	listening=''
	! grep -qE ": (0100007F|0{8}):$hexadecimal 0{8}:0000 0A" /proc/net/tcp 2>/dev/null || listening="IPv4"
	! grep -qE ": (0{24}01000000|0{32}):$hexadecimal 0{32}:0000 0A" /proc/net/tcp6 2>/dev/null ||
		listening="$listening${listening:+ and }IPv6"
	report info listener "listening on port $port: ${listening:-nothing}"
}

main "$@"
