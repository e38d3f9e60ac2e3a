// Package child runs other processes of this program that end with it.
package child
