package sender

import (
	"errors"
	"net/mail"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// mailbox is an address with an optional display name, its domain in A-labels.
func parseMailbox(s string) (mail.Address, error) {
	parsed, err := mail.ParseAddress(s)
	if err != nil {
		return mail.Address{}, errors.New("is not a mailbox such as Club <club@example.com>")
	}
	address, err := asciiAddress(parsed.Address)
	if err != nil {
		return mail.Address{}, err
	}
	return mail.Address{Name: oneLine(parsed.Name), Address: address}, nil
}

// asciiAddress gives the form of address that every relay takes: an ASCII
// dot-atom, and a domain in A-labels (IDNA2008, RFC 5891). SMTPUTF8 is never
// used, so a local part with other letters has no such form. Errors do not quote
// the address.
func asciiAddress(address string) (string, error) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return "", errors.New("has no @")
	}
	local, domain := address[:at], address[at+1:]
	if !isDotAtom(local) || len(local) > 64 {
		return "", errors.New("has a local part that is not made of plain ASCII letters, digits, dots and signs")
	}
	if isPlainDomain(domain) && len(address) <= 254 {
		return address, nil
	}
	ascii, err := idna.Lookup.ToASCII(domain)
	if err != nil || !isDomain(ascii) {
		return "", errors.New("has a domain that is no domain name")
	}
	if strings.ContainsFunc(domain, func(r rune) bool { return r > unicode.MaxASCII }) {
		// ToASCII drops soft hyphens, and reads full-width letters as plain ones. Whoever
		// must not be written to would have any number of addresses that look different.
		back, err := idna.Lookup.ToUnicode(ascii)
		if err != nil || back != strings.ToLower(domain) || strings.ContainsFunc(domain, isOtherASCII) {
			return "", errors.New("has a domain with characters that are not as IDNA2008 writes them, such as full-width letters")
		}
	}
	if len(local)+1+len(ascii) > 254 {
		return "", errors.New("is longer than 254 characters")
	}
	return local + "@" + ascii, nil
}

// isOtherASCII says that r is lowered to an ASCII letter without being one, such as
// the Kelvin sign, so that a comparison in lower case does not tell them apart.
func isOtherASCII(r rune) bool { return r > unicode.MaxASCII && unicode.ToLower(r) <= unicode.MaxASCII }

// isPlainDomain says that s is the domain in A-labels that ToASCII makes of it:
// lower case, and without the two hyphens in any label that make it something
// special (RFC 5891 section 4.2.3.1).
func isPlainDomain(s string) bool {
	if strings.Contains(s, "--") || !isDomain(s) {
		return false
	}
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return false
		}
	}
	return true
}

// isDotAtom is dot-atom-text of RFC 5322 section 3.2.3.
func isDotAtom(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" || strings.ContainsFunc(atom, func(r rune) bool { return !isAtomText(r) }) {
			return false
		}
	}
	return true
}

func isAtomText(r rune) bool {
	return isLetterOrDigit(r) || r < 0x80 && strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
}

func isLetterOrDigit(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// isDomain is the letter-digit-hyphen form of RFC 1123 section 2.1.
func isDomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") ||
			strings.ContainsFunc(label, func(r rune) bool { return !isLetterOrDigit(r) && r != '-' }) {
			return false
		}
	}
	return true
}

// helloName makes a host's name fit for EHLO (RFC 5321 section 4.1.1.1).
func helloName(host string) string {
	name := strings.Map(func(r rune) rune {
		if isLetterOrDigit(r) || r == '.' {
			return r
		}
		return '-'
	}, strings.TrimSuffix(host, "."))
	if !isDomain(name) {
		return "localhost"
	}
	return name
}
